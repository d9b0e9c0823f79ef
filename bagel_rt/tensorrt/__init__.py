"""TensorRT for BAGEL's graphs: the ranges of sizes plans are built for, where plans are kept, how they are checked.

The engine itself is engines/bagel_engines/tensorrt.
"""
