"""Packed weights: each form that people share is recognised by its keys and unpacked tensor by tensor, or refused."""
