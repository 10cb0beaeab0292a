"""Golden files made with mergekit; see README.md."""
