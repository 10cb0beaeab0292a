"""Merge methods: one file and one row of the table each."""
