"""Aggregators: plain, masked, encrypted, and over a network."""
