"""An exported artefact folder: what its graphs take and give (contract), its manifest bagel_rt.json, names of
precisions, and which folder a command uses."""
