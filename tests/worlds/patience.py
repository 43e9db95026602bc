"""How long tests wait: a loaded machine makes them slow, never red."""

HANG = 1800.0
"""Seconds after which whatever a test waits for hangs. Nothing that works takes nearly so long, however busy the
machine: a test waits for events, and this only ends a wait for one that never comes.
"""
