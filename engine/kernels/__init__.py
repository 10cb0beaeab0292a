"""Compiled kernels; they import nothing of ours."""
