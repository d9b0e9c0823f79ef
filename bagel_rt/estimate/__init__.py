"""How much memory and time a request will take, before it is made, and whether it may begin.

The request is run on an engine that computes nothing and counts the calls (counting_engine, workload); memory.py turns
calls into bytes, timing.py into seconds; forecast.py is both, for `bagel-rt plan`; admission.py refuses what does not
fit.
"""
