"""What a caller may ask for: options of pictures and texts with their defaults and checks, presets, seeds."""
