"""The base class of all exceptions that this framework raises, and the error for a missing optional package."""

from collections.abc import Iterator
from contextlib import contextmanager


class SecureAflError(Exception):
    """Base class. The text says what was expected and what came, and never quotes a secret."""


class CryptoError(SecureAflError, ValueError):
    """A value, key, share or ciphertext does not fit its scheme."""


EXTRAS = {
    "torch": "torch",
    "onnxruntime": "onnx",
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
"""The extra that installs a package, by the name under which the package is imported."""


class MissingExtraError(SecureAflError, ModuleNotFoundError):
    """An optional package is needed here and is not installed."""


@contextmanager
def optional() -> Iterator[None]:
    """Context for imports of optional packages. Raises `MissingExtraError`, which says how to install a missing one."""
    try:
        yield
    except MissingExtraError:
        raise
    except ModuleNotFoundError as error:
        if (package := (error.name or "").partition(".")[0]) in EXTRAS:
            raise missing(package) from None
        raise


def missing(package: str, extra: str = "") -> MissingExtraError:
    """The error for a package that is not installed; extra: the extra that installs it, by default from `EXTRAS`."""
    brings = extra or EXTRAS[package]
    return MissingExtraError(
        f"this needs the package {package}, which is not installed: pip install 'secure-afl[{brings}]'",
        name=package,
    )
