"""OpenVINO on the CPU: the engine, and three rewrites of a model between reading it and compiling it.

What the rewrites gain, and on which version it was seen, is in docs/internals/openvino.md.
"""
