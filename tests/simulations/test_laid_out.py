"""Folders that a data set is laid out in are what their parties' nodes read."""

import stat
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from secure_afl.errors import DataError
from secure_afl.protocol.errors import FileError
from secure_afl.simulations.cli import app
from secure_afl.simulations.data import load
from secure_afl.simulations.laid_out import lay_out
from secure_afl.site import Folder

HEART = load("heart")


def test_every_row_comes_back_at_its_site_to_the_bit(tmp_path: Path) -> None:
    made = lay_out(tmp_path / "new", HEART, backend="mask")
    terms, study = Folder(made.server).terms()
    assert terms.parties.key_holders is None
    assert HEART.site is not None
    for member, folder in zip(terms.parties.clients.members, made.clients, strict=True):
        X, y, name = Folder(folder).data(study)
        mine = HEART.site == member.name
        assert np.array_equal(X, HEART.X[mine])
        assert y.tolist() == [HEART.classes[place] for place in HEART.y[mine]]
        assert name == "heart"


@pytest.mark.parametrize(("backend", "holders"), [("mask", 0), ("bfv", 2)])
def test_parties_have_the_numbers_of_their_folders(tmp_path: Path, backend: str, holders: int) -> None:
    made = lay_out(tmp_path, HEART, backend=backend, holders=holders)
    for number, folder in enumerate((*made.clients, *made.holders)):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        with closing(Folder(folder).endpoint()) as endpoint:
            assert endpoint.party == number
    assert Folder(made.server).terms() == Folder(made.clients[0]).terms()


def test_what_is_there_is_not_written_over(tmp_path: Path) -> None:
    lay_out(tmp_path, HEART, backend="mask")
    with pytest.raises(FileError, match="cannot be made: File exists"):
        lay_out(tmp_path, HEART, backend="mask")
    with pytest.raises(DataError, match="expected rows of several sites"):
        lay_out(tmp_path / "other", load("digits"), backend="mask")


def test_the_demonstration_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(*arguments: str) -> str:
        done = CliRunner().invoke(app, ["flower", "demo", *arguments])
        assert done.exit_code == 1
        return done.output

    assert "expected a client from 0 to 3 to kill, got 4" in told("--kill", "4")
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert "expected flower-superlink beside /nowhere/python, got none: pip install" in told()
