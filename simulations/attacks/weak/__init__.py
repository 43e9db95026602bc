"""Weak designs that others shipped, and how each is read."""
