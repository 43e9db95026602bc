"""The time of a node's answer does not tell how many rows it has: they were read before."""

import os
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from worlds.coded import FLAGS, Coded, flag_table
from worlds.folders import RIDGE, Federation, Post, learned

from secure_afl.errors import DropoutWarning
from secure_afl.models.change import Inside
from secure_afl.node import ahead
from secure_afl.node.ahead import Ahead
from secure_afl.node.changes import Kept, KeptRows
from secure_afl.node.site import Folder
from secure_afl.protocol.session.errors import PolicyError
from secure_afl.protocol.session.parameters import SumWanted
from secure_afl.protocol.transport.post import Envelope
from secure_afl.tables import reading


class Reads:
    """Counts how often a table is read."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.times, read = 0, reading.read

        def counted(*given: Any, **named: Any) -> Any:
            self.times += 1
            return read(*given, **named)

        patch.setattr(reading, "read", counted)
        patch.setattr(ahead, "_SETTLED", 0)


@dataclass
class Prepared(Post):
    """Parties as their nodes have them: rows are read before an envelope comes."""

    known: dict[int, Ahead] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.known = {party: Ahead(Folder(one)) for party, one in enumerate(self.federation.folders)}
        for one in self.known.values():
            one.refresh()

    def ask(self, party: int, envelope: Envelope, address: int = 0) -> bytes:
        folder = Folder(self.federation.folders[party])
        with closing(folder.endpoint(ahead=self.known[party].known)) as endpoint:
            return endpoint.answer(envelope, address)


@pytest.mark.parametrize("rounds", [1, 2])
def test_no_row_is_read_between_a_request_and_its_answer(
    rounds: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weak design reads the table when it is asked, which takes time for each row."""
    weights = []
    for kind in (Post, Prepared):
        federation = Federation(tmp_path / kind.__name__, study=f"{RIDGE}rounds = {rounds}\n")
        with monkeypatch.context() as patch:
            reads = Reads(patch)
            post = kind(federation)
            before = reads.times
            weights.append(learned(federation, post))
            assert reads.times - before == (0 if kind is Prepared else 4 * rounds)
    assert np.array_equal(weights[0], weights[1])


def test_rows_that_changed_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    federation = Federation(tmp_path)
    folder = Folder(federation.folders[0])
    study = folder.terms()[1]
    known, table = Ahead(folder), folder.path / "rows.csv"
    known.refresh()
    assert known.known(study, 0) is None  # the file has just been written
    monkeypatch.setattr(ahead, "_SETTLED", 0)
    known.refresh()
    first = known.known(study, 0)
    assert first
    assert first[1] == "rows"
    assert repr(first) == f"Ready({len(first[0])} values of 'rows')"
    kept = KeptRows("rows", b"", ("rows",), b"a row's values", b"1", Inside(b"", {}))
    assert repr(Kept(leaving=(b"", kept))).count("row's values") == 0
    assert repr(folder.data(study)) == f"Rows({len(folder.data(study)[0])} rows of 'rows')"
    assert known.known(study, 1) is None
    lines = table.read_text().splitlines()
    table.write_text("\n".join(lines[:-1]) + "\n")
    assert known.known(study, 0) is None
    known.refresh()
    other = known.known(study, 0)
    assert other
    assert not np.array_equal(first[0], other[0])
    table.write_text("no table")
    known.refresh()
    assert known.known(study, 0) is None
    os.remove(folder.path / "data.toml")
    known.refresh()
    assert known.known(study, 0) is None


@pytest.mark.parametrize("gone", [False, True])
def test_rows_that_change_between_two_sums_are_noticed(gone: bool, tmp_path: Path) -> None:
    """Two sums over different rows give the model of neither; without the check the site would contribute anyway."""
    federation = Federation(tmp_path, study=f"{RIDGE}rounds = 2\n")
    table = federation.folders[0] / "rows.csv"
    kept = table.read_text()

    class Changing(Post):
        def ask(self, party: int, envelope: Envelope, address: int = 0) -> bytes:
            if party == 0 and self.phases == second:
                lines = kept.splitlines()
                table.write_text("\n".join([lines[0], *lines[2:], lines[1]]) + "\n")
                if gone:  # the digest of the rows before
                    (federation.folders[0] / "rows.json").unlink()
            return super().ask(party, envelope, address)

    second = 8  # the phase in which vectors of the second sum are uploaded, counted from 1
    post = Changing(federation)
    with pytest.warns(DropoutWarning):
        learned(federation, post)
    assert any("the table, data.toml or rows.json has changed since" in str(one) for one in post.refusals)
    table.write_text(kept)


def test_rows_that_later_sums_need_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = Reads(monkeypatch)
    parties = Coded(tmp_path / "here", flag_table(tmp_path), FLAGS, also="held_out = 0.25\n")
    folder = Folder(parties.folders[0])
    study, known = folder.terms()[1], Ahead(folder)
    known.refresh()
    before = reads.times
    assert known.known(study, 0)
    assert known.known(study, 1) is None
    rows = known.rows(study)
    assert rows
    assert np.array_equal(rows[0], folder.data(study)[0])
    assert reads.times == before + 1  # by this test
    (folder.path / "rows.csv").write_text("other rows")
    assert known.rows(study) is None


def test_what_is_known_ahead_waits_for_the_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "_SETTLED", 0)
    parties = Coded(tmp_path / "here", flag_table(tmp_path), FLAGS, also="rows_per_column = 10\n")
    folder = Folder(parties.folders[0])
    terms, _ = folder.terms()
    known = Ahead(folder)
    known.refresh()
    with closing(folder.endpoint(ahead=known.known)) as endpoint:
        specs = [one.spec(3) for one in terms.plan]
        values, _ = endpoint._contribute(SumWanted(0, specs[0], (0, 1, 2)), b"")
        assert values[0] == values[1:].sum() > 20
        with pytest.raises(PolicyError, match="announced none"):
            endpoint._contribute(SumWanted(1, specs[1], (0, 1, 2)), b"")
        counts = np.array([84.0, 42, 42]).tobytes()
        vector, name = endpoint._contribute(SumWanted(1, specs[1], (0, 1, 2)), counts)
        assert (len(vector), name) == (specs[1].length, "rows")
