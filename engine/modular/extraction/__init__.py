"""Taking modules out of modular networks, and putting them together."""
