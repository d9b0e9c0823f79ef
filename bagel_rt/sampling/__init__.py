"""The mathematics of drawing and writing on plain arrays: time schedule, guidance, step caching, choice of tokens, and
torch's random numbers. A new guidance, step cache or schedule goes here; generation/flow_sampler.py uses them."""
