"""Secure aggregation for analytic federated learning.

The public names are loaded on first use, so that an aggregation server which only imports
`secure_afl.protocol` does not pay for the learning side.
"""

from importlib import import_module
from typing import Any

_PUBLIC: dict[str, str] = {}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'secure_afl' has no attribute {name!r}")
