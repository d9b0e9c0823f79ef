"""bagel-nano: a small BAGEL trained on a procedural world, and the score that says how well it draws."""
