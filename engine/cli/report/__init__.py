"""Showing results and progress, as text for people or as JSON for programs."""
