"""What a caller may ask for: options of pictures and texts, presets, seeds; every value checked here."""
