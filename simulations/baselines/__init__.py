"""Gradient-based federated learning for comparison, each method tuned as well as we could.

Everything here is public and unencrypted; the seeds make experiments repeatable and protect no secret.
"""
