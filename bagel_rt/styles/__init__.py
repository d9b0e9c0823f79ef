"""How a model reasons in words and pictures, as data: TOML files, checked; those of public fine-tunes are built in."""
