"""What a model does in one turn, as generators of events: read, write a text, draw a picture."""
