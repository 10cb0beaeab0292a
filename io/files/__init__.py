"""Working with files of the operating system: memory maps, writes at positions, durability, small files."""
