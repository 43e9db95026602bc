"""The attacks by target: rows, labels, membership, keys."""
