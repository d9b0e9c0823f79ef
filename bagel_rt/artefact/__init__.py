"""An exported folder: the contract of its graphs, its manifest, names of precisions, and where such folders lie."""
