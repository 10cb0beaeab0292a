"""Lets ``python -m dovetail`` run the command ``dovetail``."""

from __future__ import annotations

from dovetail.engine.__main__ import main

if __name__ == "__main__":
    main()
