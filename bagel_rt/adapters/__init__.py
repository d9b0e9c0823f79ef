"""LoRA and DoRA adapters as files: found, read and checked, for an export that merges them and for models that switch
them per call."""
