"""A plain training loop for people without one of their own: deterministic, durable, and continued after a kill."""
