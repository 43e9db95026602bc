"""Test vectors: `make.py` writes them, `ours.py` runs them on our code, `reference.operations` on the reference."""
