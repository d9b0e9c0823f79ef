"""Texts and images to the segments that contexts are made of (tokens, latents, patches), and tokens back to text."""
