"""The server of a study."""

from secure_afl.node.flower_app import server_app as app

__all__ = ["app"]
