"""`secure-afl audit` as a person meets it."""

from html.parser import HTMLParser
from pathlib import Path

import pytest
from msgspec import structs
from typer.testing import CliRunner
from worlds.audits import written

from secure_afl.crypto.identity import Identity
from secure_afl.protocol.audit.chain import read
from secure_afl.protocol.audit.check import verify
from secure_afl.protocol.audit.events import Begun
from secure_afl.protocol.files import roster
from secure_afl.protocol.files.roster import Parties
from secure_afl.protocol.session.roster import Member, Roster
from secure_afl.simulations.cli import main

runner = CliRunner()


def run(*arguments: object) -> tuple[int, str]:
    result = runner.invoke(main.app, [str(one) for one in arguments], terminal_width=200)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, " ".join(result.output.replace("│", " ").split())


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Of the main job."""
    folder = tmp_path_factory.mktemp("audit") / "logs"
    code, output = run("run", "--audit", folder, "--dropout", "0.25")
    assert code == 0
    assert f"secure-afl audit verify {folder}/*.jsonl" in output
    return sorted(folder.glob("*.jsonl"))


def test_logs_that_hold(logs: list[Path]) -> None:
    assert [one.name.split(".")[0] for one in logs] == [
        *("Cleveland", "Hungary", "Switzerland", "VA-Long-Beach", "server")
    ]
    code, output = run("audit", "verify", *logs)
    assert code == 0
    for words in (
        "Cleveland sent one vector of 559 numbers",
        "hidden by secret masks; the server learned only the sum over 3 clients (",
        "is in no sum and stays hidden",
        "This holds as long as fewer than 2 of the 4 clients help the server",
        "every line is signed and in its place, and the logs agree",
    ):
        assert words in output


def test_a_changed_line_is_named(logs: list[Path], tmp_path: Path) -> None:
    lines = logs[0].read_bytes().splitlines(keepends=True)
    changed = tmp_path / "changed.jsonl"
    changed.write_bytes(b"".join([*lines[:6], lines[6].replace(b'"size":', b'"size":1'), *lines[7:]]))
    code, output = run("audit", "verify", changed, *logs[1:])
    assert code == 1
    assert f"{changed}, line 7: the signature does not fit the entry" in output
    assert "what follows may not be what happened" in output


def test_a_page(logs: list[Path], tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    code, output = run("audit", "verify", *logs, "--html", page)
    assert code == 0
    assert f"page: {page}" in output
    text = page.read_text()
    assert "Cleveland sent one vector of 559 numbers" in text
    assert "http" not in text.replace("http-equiv", "")  # nothing is fetched
    tags: list[str] = []

    class Tags(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            if tag != "meta":
                tags.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert tags.pop() == tag

    Tags().feed(text)
    assert not tags


def test_a_name_in_a_log_is_no_markup(tmp_path: Path, logs: list[Path]) -> None:
    entries, identity = read(logs[0].read_bytes()).entries, Identity.generate()
    begun = entries[0].event
    assert isinstance(begun, Begun)
    odd = structs.replace(begun, party="<script>x</script>[bold]", key=identity.verify_key)
    (tmp_path / "odd").write_bytes(written(identity, [odd, entries[-1].event], entries[0].time))
    code, output = run("audit", "verify", tmp_path / "odd", "--html", tmp_path / "page.html")
    assert code == 0
    assert "[bold]" in output
    text = (tmp_path / "page.html").read_text()
    assert "<script>" not in text
    assert "&lt;script&gt;" in text


def test_what_is_refused_is_said(tmp_path: Path, logs: list[Path]) -> None:
    for arguments, said in (
        (("audit", "verify", tmp_path / "none"), "does not exist"),
        (("audit", "verify", logs[0], "--html", tmp_path / "no" / "page"), "cannot write into the folder"),
        (("run", "--backend", "plain", "--audit", tmp_path / "logs"), "nothing is agreed on or signed"),
        (("run", "--audit", logs[0] / "logs"), "cannot make the folder"),
    ):
        code, output = run(*arguments)
        assert code in (1, 2)
        assert said in output


def test_keys_are_those_of_the_roster_that_is_given(logs: list[Path], tmp_path: Path) -> None:
    report = verify({str(log): log.read_bytes() for log in logs})
    known = Parties(report.sessions[0].roster)
    (tmp_path / "roster.toml").write_text(roster.text(known))
    code, output = run("audit", "verify", *logs, "--roster", tmp_path / "roster.toml")
    assert code == 0
    assert "Clients and key holders have the keys of the given roster" in output
    members = (Member("Cleveland", Identity.generate().verify_key), *known.clients.members[1:])
    (tmp_path / "other.toml").write_text(roster.text(Parties(Roster(members))))
    code, output = run("audit", "verify", *logs, "--roster", tmp_path / "other.toml")
    assert code == 1
    assert "the session's clients are those of roster" in output
