"""Test vectors: `make.py` writes them to `protocol/vectors/`, `ours.py` runs them on our code, `reference.operations` on the reference."""
