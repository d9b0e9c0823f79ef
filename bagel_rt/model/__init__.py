"""Graphs loaded and called: rows in, rows out; the tree of contexts; the VAE."""
