"""One weight file for all graphs: written piece by piece, or linked to the checkpoint's own."""
