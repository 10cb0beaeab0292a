"""Reports as web pages: one file that opens from the disk, offline, in any browser."""
