"""The operating system: memory maps, positional writes, durability, small files."""
