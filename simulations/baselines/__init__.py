"""Federated learning by gradients, for comparison: each method as strong as we could tune it.

Everything here is public and in the clear; the seeds shape experiments and guard no secret.
"""
