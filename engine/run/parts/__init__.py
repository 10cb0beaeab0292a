"""Making one output by several processes that share nothing but its folder: who makes what, and what is done."""
