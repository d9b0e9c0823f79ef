"""What TensorRT needs to know of BAGEL: ranges of sizes, where plans are kept, how they are compared."""
