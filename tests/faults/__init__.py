"""Tests with faults of the machine during a merge: disks, files, permissions, signals, processes."""
