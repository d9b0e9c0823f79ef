"""The mathematics of drawing and writing, on plain arrays: schedule, guidance, step cache, token choice, noise."""
