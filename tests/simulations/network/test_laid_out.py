"""Folders that a data set is laid out in are what their parties' nodes read."""

import stat
import sys
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner
from worlds.folders import Post

from secure_afl.models.networks.fedacnnl import FedACnnL
from secure_afl.node.site import Folder
from secure_afl.protocol.session.errors import FileError
from secure_afl.simulations.cli.main import app
from secure_afl.simulations.data.dataset import load
from secure_afl.simulations.data.partition import default_spec, partition
from secure_afl.simulations.network.compared import compare
from secure_afl.simulations.network.laid_out import lay_out
from secure_afl.simulations.study.networks import network_for
from secure_afl.sums.remote import Elsewhere, remote

HEART = load("heart")
PARTS = partition(HEART, "site", None, seed=0)


def test_every_row_comes_back_at_its_site_to_the_bit(tmp_path: Path) -> None:
    made = lay_out(tmp_path / "new", HEART, PARTS, backend="mask")
    terms, study = Folder(made.server).terms()
    assert terms.parties.key_holders is None
    assert [member.name for member in terms.parties.clients.members] == [part.client for part in PARTS]
    for part, folder in zip(PARTS, made.clients, strict=True):
        X, y, _, name, _ = Folder(folder).data(study)
        assert np.array_equal(X, HEART.X[part.train])
        assert y.tolist() == [HEART.classes[index] for index in HEART.y[part.train]]
        assert name == "heart"


@pytest.mark.parametrize(
    ("backend", "holders", "encoder"), [("mask", 0, None), ("bfv", 2, "seeded"), ("ckks", 1, "classwise")]
)
def test_parties_have_the_numbers_of_their_folders(
    tmp_path: Path, backend: str, holders: int, encoder: str | None
) -> None:
    made = lay_out(tmp_path, HEART, PARTS, backend=backend, holders=holders, encoder=encoder)
    for number, folder in enumerate((*made.clients, *made.holders)):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        with closing(Folder(folder).endpoint()) as endpoint:
            assert endpoint.party == number
    assert Folder(made.server).terms() == Folder(made.clients[0]).terms()


def test_what_is_there_is_not_written_over(tmp_path: Path) -> None:
    lay_out(tmp_path, HEART, PARTS, backend="mask")
    with pytest.raises(FileError, match="cannot be made: File exists"):
        lay_out(tmp_path, HEART, PARTS, backend="mask")


@pytest.mark.parametrize("data", ["heart", "digits"])
def test_a_network_is_laid_out_as_the_one_that_run_trains(tmp_path: Path, data: str) -> None:
    rows = load(data)
    parts = partition(rows, default_spec(rows), None if rows.site is not None else 3, seed=0)
    made = lay_out(tmp_path, rows, parts[:3], backend="mask", encoder="spatial")
    terms, study = Folder(made.server).terms()
    estimator = study.estimator()
    assert isinstance(estimator, FedACnnL)
    assert estimator.network == network_for(rows)
    assert terms.policy.trusts_reports
    own = Folder(made.clients[2]).data(study)
    assert len(study.vector(0, own, "site")) == terms.plan[0].length


def test_the_comparison_is_with_the_rows_that_sites_contribute(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Under disclosure control, which codes many of the heart data's values otherwise."""
    made = lay_out(tmp_path, HEART, PARTS, backend="mask")
    terms, study = Folder(made.server).terms()
    post = Post(SimpleNamespace(folders=list(made.clients)))
    names = [part.client for part in PARTS]
    weights, _ = study.learn(remote(Elsewhere(terms.parties, post.carrier), terms.policy, None), names)
    np.savez(made.server / "model.npz", *weights)
    compare(made, {"survivors": [names]}, HEART, PARTS, 0)
    assert "weights over the network and in one process: the same, bit for bit" in capsys.readouterr().out


def test_the_demonstration_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(*arguments: str) -> str:
        done = CliRunner().invoke(app, ["flower", "demo", *arguments])
        assert done.exit_code == 1
        return done.output

    assert "expected a client from 0 to 3 to kill, got 4" in told("--kill", "4")
    assert "heart has 4 sites, not 5" in told("--clients", "5")
    assert "unknown partition 'by-moon'" in told("--partition", "by-moon")
    assert "expected a client from 0 to 4 to kill, got 5" in told(
        "--partition", "iid", "--clients", "5", "--kill", "5"
    )
    assert "expected encoder as one of seeded" in told("--encoder", "deep")
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert "flwr is not installed beside /nowhere/python: pip install" in told()
