"""Precisions of tensors: number formats, rounding, calibration, and what is done to each tensor."""
