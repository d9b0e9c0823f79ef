"""One user's calls and sessions, and how they share a model with others."""
