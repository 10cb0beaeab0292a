"""Lets ``python -m dovetail`` run the command ``dovetail``."""

from __future__ import annotations

from dovetail.engine.cli.main import main

if __name__ == "__main__":
    main()
