"""The PyTorch reference model: plain SDPA, float32, modules named as the checkpoint's keys."""
