"""ONNX Runtime: an engine on the CPU, another on CUDA, and how weights and attention are made to take less memory."""
