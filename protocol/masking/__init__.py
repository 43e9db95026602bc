"""Secure sums with pairwise masks: Bonawitz et al. (CCS 2017) on the sparse graph of Bell et al. (CCS 2020)."""
