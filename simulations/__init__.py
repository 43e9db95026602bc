"""Populations, data, partitions, faults, benchmarks and the command line: the top of the import order."""
