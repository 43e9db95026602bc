"""Parties as processes on this machine: folders, certificates, a Flower network, its simulation engine."""
