"""Parties, folders and networks that many tests build."""
