"""Proof that an artefact computes what the checkpoint does: stage by stage, against PyTorch or a recorded run."""
