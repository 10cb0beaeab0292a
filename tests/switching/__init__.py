"""Public recipes for mergekit, and what mergekit 0.1.5 makes of them on tiny models."""
