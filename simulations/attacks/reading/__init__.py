"""The attacks, by what each is after: rows, labels, membership, keys."""
