"""Sessions over Flower. Only this package imports Flower; it needs the extra `flower`."""

from secure_afl.crypto.errors import optional

with optional():
    import flwr  # noqa: F401
