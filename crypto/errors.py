"""The root of every exception that this framework raises on purpose, and the error where an optional package is missing."""

from collections.abc import Iterator
from contextlib import contextmanager


class SecureAflError(Exception):
    """Something was refused; the text says what was expected and what came, and never quotes a secret."""


class CryptoError(SecureAflError, ValueError):
    """A value, key, share or ciphertext does not fit its scheme."""


EXTRAS = {
    "torch": "torch",
    "tenseal": "he",
    "zstandard": "he",
    "dp_accounting": "privacy",
    "pyarrow": "tables",
    "python_calamine": "excel",
    "psycopg": "postgres",
    "jinja2": "reports",
    "matplotlib": "reports",
    "flwr": "flower",
    "httpx": "flower",
    "sqlalchemy": "flower",
    "uvicorn": "flower",
    "ray": "simulation",
    "flwr_datasets": "datasets",
    "datasets": "datasets",
    "prometheus_client": "metrics",
    "hypothesis": "testing",
    "declearn": "peers",
}
"""By the name under which a package is imported."""


class MissingExtraError(SecureAflError, ModuleNotFoundError):
    """A package is not installed that this use needs."""


@contextmanager
def optional() -> Iterator[None]:
    """Import optional packages in here. Raises `MissingExtraError`, which says how to install one that is missing."""
    try:
        yield
    except MissingExtraError:
        raise
    except ModuleNotFoundError as error:
        if (package := (error.name or "").partition(".")[0]) in EXTRAS:
            raise missing(package) from None
        raise


def missing(package: str, extra: str = "") -> MissingExtraError:
    """The error for a package that is not installed; extra: which brings it here, else that of `EXTRAS`."""
    brings = extra or EXTRAS[package]
    return MissingExtraError(
        f"this needs the package {package}, which is not installed: pip install 'secure-afl[{brings}]'",
        name=package,
    )
