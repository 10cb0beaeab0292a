"""Networks as data: their layers, what can be cut out of them, and how they are stored; none of it needs torch."""
