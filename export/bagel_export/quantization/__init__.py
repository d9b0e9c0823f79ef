"""Quantisation: what a precision means for each tensor (precision, recipe), rounding to few bits (quantize), and
finding out what weights multiply to lose less by it (calibration, smoothing, rotation)."""
