"""The artefact's weights: one file for all graphs, written piece by piece, or hard links to the checkpoint's own
files."""
