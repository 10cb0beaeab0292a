"""Images with labels: made here, or read from files in common formats; none are downloaded."""
