"""Finding, reading and refusing checkpoints; adapters; random ones for tests."""
