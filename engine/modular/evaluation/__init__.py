"""How good modular networks and their modules are."""
