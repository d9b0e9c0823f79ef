"""What engines on a CUDA device share: arrays and cache in its memory, CUDA itself, recorded runs, sums of results."""
