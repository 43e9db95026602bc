"""Sessions over Flower: the only place of the framework that knows it. Needs the extra `flower`."""

from secure_afl.crypto.errors import optional

with optional():
    import flwr  # noqa: F401
