"""What a model does in one turn, as generators of events: read inputs, write a text, denoise and decode a picture."""
