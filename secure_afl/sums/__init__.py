"""Aggregators, one interface for every backend: masked, encrypted, plain, and remote over a network."""
