"""Cryptographic primitives: integers, bytes and keys. Nothing here knows about rounds, messages or models."""
