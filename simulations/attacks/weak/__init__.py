"""Weak designs of shipped libraries, and how a server reads each."""
