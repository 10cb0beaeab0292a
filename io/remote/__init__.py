"""Reading checkpoints over the network: addresses, transports, retries, and fetching ahead of need."""
