"""Estimators over a secure sum."""
