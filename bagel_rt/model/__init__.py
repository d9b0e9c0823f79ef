"""The model's forward passes: loading graphs and calling them, computing and caching contexts, decoding latents.

Step graphs take the rows of one request per call (step_graphs.py); several requests share the model by taking turns
(conversation/streaming.py), not by being batched into one call.
"""
