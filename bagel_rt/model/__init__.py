"""The model's forward passes: loading graphs and calling them, computing and caching contexts, decoding latents."""
