"""Integers, bytes and keys: what the protocols are made of. Knows nothing of rounds, messages or models."""
