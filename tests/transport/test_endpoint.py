"""Parties that are made anew from their folders for every message make the same model as parties in one process."""

from pathlib import Path

import numpy as np
import pytest
from folders import DEEP, RIDGE, Federation, Post

from secure_afl.aggregation import MaskedAggregator
from secure_afl.encrypted import EncryptedAggregator
from secure_afl.remote import Elsewhere, remote
from secure_afl.site import Folder


def learned(federation: Federation, post: Post) -> np.ndarray:
    terms, study = Folder(federation.server).terms()
    aggregator = remote(Elsewhere(federation.parties, post.carry), terms.policy, terms.encryption)
    model = study.learn(aggregator, federation.names)
    return np.asarray(model.weights_ if study.ridge else model.weights_[-1])


def in_process(federation: Federation, numbers: range, backend: str) -> np.ndarray:
    terms, study = Folder(federation.server).terms()
    aggregator = (
        MaskedAggregator(terms.policy)
        if backend == "mask"
        else EncryptedAggregator(backend, terms.policy, holders=federation.holders)
    )
    X, y, site = federation.rows(numbers)
    model = study._ridge(aggregator) if study.ridge else study._deep(aggregator)
    model.fit(X if study.ridge else study._scaled(X), y, site)
    return np.asarray(model.weights_ if study.ridge else model.weights_[-1])


@pytest.mark.parametrize(
    ("backend", "holders", "study"),
    [("mask", 0, RIDGE), ("mask", 0, DEEP), ("bfv", 1, RIDGE), ("bfv+mask", 2, RIDGE)],
)
def test_the_same_bits_as_in_one_process(tmp_path: Path, backend: str, holders: int, study: str) -> None:
    federation = Federation(tmp_path, holders=holders, backend=backend, study=study)
    assert np.array_equal(learned(federation, Post(federation)), in_process(federation, range(4), backend))
