"""OpenVINO on the CPU, and what is done to a graph after it was read."""
