"""The network: addresses, transports, reading ahead."""
