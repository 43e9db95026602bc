"""One thread for each test process, and Hypothesis settings for the whole suite."""

import os
import re

# Before NumPy or torch is loaded: small matrices, and several test processes at a time.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.internal.conjecture import providers
from hypothesis.internal.constants_ast import Constants

pytest_plugins = ["worlds.budget", "worlds.search"]

# The same examples at every run: whether the tests pass depends on the code alone.
settings.register_profile(
    "default",
    deadline=None,
    derandomize=True,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.register_profile("search", settings.get_profile("default"), derandomize=False)
settings.register_profile("thorough", settings.get_profile("search"), max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

# Hypothesis also draws constants of all modules that are loaded: which those are depends on the tests that ran before.
providers._get_local_constants = Constants


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Test processes must agree on names. Raises `pytest.UsageError` for one with an address of memory."""
    for item in items:
        if re.search("at ?0x[0-9a-f]{6}", item.nodeid):
            raise pytest.UsageError(
                f"expected a name that is the same in every process, got {item.nodeid}: give the parameters ids"
            )
