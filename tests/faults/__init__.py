"""Faults of the machine around a merge: disks, files, permissions, signals, processes."""
