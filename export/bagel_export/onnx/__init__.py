"""Making ONNX graphs: a wrapper module for each graph of the contract, tracing, and the nodes around quantised
weights."""
