"""What an opened sum of a study shows, in its report; and a policy that asks for more."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from worlds.coded import FLAGS, INSIDE, Coded, flag_table

from secure_afl.node.preflight import looked_at
from secure_afl.node.site import DISCLOSURE, Folder, exposed
from secure_afl.node.study import parse
from secure_afl.protocol.files import policy
from secure_afl.protocol.session.errors import FileError, PolicyError
from secure_afl.protocol.session.policy import Policy


def test_a_report_names_the_smallest_cell_and_warns(tmp_path: Path) -> None:
    """For a sum in which one patient has all three flags, and for one whose levels were merged."""
    table = flag_table(tmp_path)
    rare = FLAGS.replace(
        'kind = "number", range = [0, 100]', 'kind = "category", levels = ["20", "60", "other"]'
    )
    lines = table.read_text().splitlines()
    aged = [
        ",".join([one, "60" if at == 40 else "other" if at % 2 else "20", *rest])
        for at, line in enumerate(lines[1:])
        for one, _, *rest in [line.split(",")]
    ]
    aged_table = table.with_name("aged.csv")
    aged_table.write_text("\n".join([lines[0], *aged]) + "\n")
    for least_rows, cell, rows in ((1, "age = 60", 1), (5, None, 5)):
        hospitals = Coded(tmp_path / str(least_rows), aged_table, f"least_rows = {least_rows}\n{rare}")
        fitted = hospitals.deployed()
        found = exposed(Folder(hospitals.server).terms()[1], fitted)
        assert found
        assert found["pooled_rows"] == 84
        assert found["smallest_cell_rows"] >= rows
        if cell:
            assert (found["smallest_cell"], found["smallest_cell_rows"]) == (cell, rows)
        assert bool(found["warnings"]) is (least_rows == 1)
        for folder in hospitals.folders:  # each party by the sum that it checked
            assert json.loads((folder / DISCLOSURE).read_text()) == json.loads(json.dumps(found))


def test_a_policy_can_ask_for_noise_or_weights_where_there_are_categories(tmp_path: Path) -> None:
    guarding = Policy(guards_categories=True, backends=frozenset({"mask", "ckks", "bfv"}))
    body = f"max_rows = 100\n[ridge]\n[codebook]\n{INSIDE}"
    for refused in (f'backend = "mask"\n{body}', f'backend = "bfv"\nrelease = "sum"\n{body}'):
        with pytest.raises(PolicyError, match="guards_categories"):
            parse(refused).check_policy(guarding)
        parse(refused).check_policy(Policy())
    for taken in (
        f'backend = "ckks"\n{body}',
        f'backend = "mask"\n{body}[privacy]\nepsilon = 1.0\ndelta = 1e-6\n',
        'backend = "mask"\nmax_rows = 9\nfeatures = ["a"]\nlabel = "b"\nclasses = ["0", "1"]\n[ridge]\nrow_norm = 1.0\n',
    ):
        parse(taken).check_policy(guarding)
    hospitals = Coded(tmp_path / "here", flag_table(tmp_path), FLAGS)
    site = hospitals.folders[0]
    (site / "policy.toml").write_text(policy.text(replace(Policy(), guards_categories=True)))
    with pytest.raises(FileError, match=r"study\.toml: the policy asks for noise"):
        Folder(site).endpoint()
    assert any(one.fault and "guards_categories" in one.said for one in looked_at(site))
