"""Benchmarks of masked and encrypted sums on this machine."""
