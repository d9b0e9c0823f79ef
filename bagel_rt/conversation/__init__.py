"""Calls and sessions: the work of one user from items to a result, and how several users take turns on one model."""
