"""Clusters of workers, each of which makes parts of an output: what they are asked, and who asks them."""
