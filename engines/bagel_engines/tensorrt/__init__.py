"""TensorRT and TensorRT-RTX: building plans, keeping them, running them."""
