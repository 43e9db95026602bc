"""A client or key holder of a study."""

from secure_afl.node.flower_app import client_app as app

__all__ = ["app"]
