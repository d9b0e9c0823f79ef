"""BAGEL as training code drives it: the packed forward, and loading by name."""
