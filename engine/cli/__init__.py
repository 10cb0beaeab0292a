"""The command ``dovetail``: its commands and options, mergekit's flags, and what people see while it works."""
