"""The exported graphs: a module for each, traced to ONNX, and the nodes around quantised weights."""
