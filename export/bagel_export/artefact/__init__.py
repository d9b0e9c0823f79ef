"""The export itself: weights and graphs written, compared with PyTorch, published as one folder."""
