"""Tasks in, durable chunks out: workers, memory, journal."""
