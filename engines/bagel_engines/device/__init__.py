"""Memory of a CUDA device, runs recorded on it, and sums of results that stay there."""
