"""The one error of the reference."""


class Refused(ValueError):  # noqa: N818
    """The documents do not allow it."""


def need(condition: bool, expected: str) -> None:
    """Raises `Refused` unless the condition holds."""
    if not condition:
        raise Refused(f"expected {expected}")
