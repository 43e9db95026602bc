"""Encrypted sums: clients encrypt, a server adds, key holders open one approved sum. See docs/protocol.md."""
