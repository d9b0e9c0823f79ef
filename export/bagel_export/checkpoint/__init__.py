"""Reading checkpoints: finding their files, checking them as a whole, streaming tensors, merging LoRA adapters; and
writing random ones for tests and benchmarks."""
