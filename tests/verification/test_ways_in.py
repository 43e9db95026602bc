"""The command, its reports, and the tests that pytest makes of properties."""

import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from secure_afl.simulations.cli.main import app
from secure_afl.testing import PropertyFailed, check_aggregator, report
from secure_afl.testing.plugin import properties
from verification import flawed
from verification.sound import Sound

TESTS = Path(__file__).parents[1]


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.chdir(TESTS)
    return CliRunner()


@pytest.mark.slow
def test_the_command_writes_its_reports_and_says_by_its_exit_code_what_it_found(
    runner: CliRunner, tmp_path: Path
) -> None:
    reports = [f"--{kind}={tmp_path / kind}" for kind in ("json", "junit", "html", "keep")]
    names = ["--only=sums_are_right", "--only=inputs_are_left_alone", "--only=tampering_changes_no_sum"]
    good = runner.invoke(app, ["verify-aggregator", "verification.sound:Sound", *names, *reports])
    assert good.exit_code == 0, good.output
    assert "sound: 2 passed, 0 failed, 1 not claimed" in good.output
    bad = runner.invoke(app, ["verify-aggregator", "verification.flawed:ScalesInPlace", *names, *reports])
    assert bad.exit_code == 1
    assert "changed in place" in bad.output
    rows = json.loads((tmp_path / "json").read_bytes())["rows"]
    assert [row["name"] for row in rows if row["verdict"] == "failed"] == ["inputs_are_left_alone"]
    suite = ElementTree.parse(tmp_path / "junit").getroot()
    assert (suite.get("failures"), suite.get("skipped")) == ("1", "1")
    assert "changed in place" in (tmp_path / "html").read_text()
    offline = runner.invoke(app, ["verify-aggregator", f"--record={tmp_path / 'keep'}", *names])
    assert offline.exit_code == 1
    assert "changed in place" in offline.output


@pytest.mark.slow
def test_the_command_checks_a_program(runner: CliRunner) -> None:
    program = f"{sys.executable} -m verification.answering"
    result = runner.invoke(app, ["verify-aggregator", f"--command={program}", "--only=sums_are_right"])
    assert result.exit_code == 0, result.output
    assert "passed" in result.output


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        ["a:b", "--url=http://x"],
        ["nocolon"],
        ["no_such_module:X"],
        ["--url=ftp://x"],
        ["--record=no-such-file"],
    ],
)
def test_what_cannot_be_checked_is_an_error(runner: CliRunner, wrong: list[str]) -> None:
    assert runner.invoke(app, ["verify-aggregator", *wrong]).exit_code == 2


def test_reports_escape_what_systems_say() -> None:
    class Named(flawed.Coarse):
        claims = {**Sound.claims, "name": "<script>\x1b\0"}  # noqa: RUF012

    made = check_aggregator(Named, only=["sums_are_right"], on_fail="collect")
    assert b"<script>" not in report.as_html(made)
    assert ElementTree.fromstring(report.as_junit(made)).get("name") == r"<script>\x1b\x00"
    assert "\x1b" not in str(made)


def marks(test: object, name: str) -> list[pytest.Mark]:
    (mark,) = test.pytestmark  # type: ignore[attr-defined]
    (parameter,) = [one for one in mark.args[1] if one.id == name]
    return list(parameter.marks)


def test_a_property_is_a_test_and_an_expected_failure_has_its_reason() -> None:
    test = properties(flawed.ScalesInPlace, expected={"inputs_are_left_alone": "mended next week"})
    test("sums_are_right")
    with pytest.raises(PropertyFailed, match="changed in place"):
        test("inputs_are_left_alone")
    with pytest.raises(pytest.skip.Exception, match="not claimed"):
        test("tampering_changes_no_sum")
    (expected,) = marks(test, "inputs_are_left_alone")
    assert expected.kwargs == {"reason": "mended next week", "strict": True, "raises": PropertyFailed}
    assert not marks(test, "sums_are_right")
    with pytest.raises(ValueError, match="expected names of properties"):
        properties(Sound, expected={"no such property": ""})
