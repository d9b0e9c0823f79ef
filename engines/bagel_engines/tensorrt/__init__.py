"""TensorRT and TensorRT-RTX: building plans (engine files for one GPU and version), keeping them, running them."""
