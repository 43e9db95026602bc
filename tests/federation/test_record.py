"""The page for a data-protection file says what happened, in every language, and nothing of a row."""

import json
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some
from typer.testing import CliRunner
from worlds.folders import Federation, Post, learned

from secure_afl.federation import record
from secure_afl.federation.record import LANGUAGES, Page
from secure_afl.node.site import AUDIT
from secure_afl.node.study import packed
from secure_afl.protocol.session.errors import FileError
from secure_afl.protocol.transport.post import Channel, Envelope
from secure_afl.simulations.cli.main import app

PROJECT = """\
name = "A <b>study</b>"
parties = ["site-0", "site-1", "site-2", "site-3"]
server = "server.example:8000"
contact = "Dr Noor"
[legal]
controller = "All hospitals, jointly"
basis = "Article 9(2)(j)"
retention = "ten years"
"""


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """A study that was learned over all but site-3; site-0 has the model."""
    made = Federation(tmp_path_factory.mktemp("record"))
    post = Post(made, {(phase, 3) for phase in range(3, 6)})
    with pytest.warns(match="without site-3"):
        weights = learned(made, post)
    (session,) = post.sessions
    post.ask(0, Envelope(Channel.END, session, packed([weights])))
    for folder in (made.server, *made.folders):
        (folder / "project.toml").write_text(PROJECT)
    return made


def logs(federation: Federation, *parties: int) -> dict[str, bytes]:
    return {str(number): (federation.folders[number] / AUDIT).read_bytes() for number in parties}


def facts(page: Page) -> dict[str, str]:
    return {label: text for part in page.parts for label, text in part.facts}


def test_the_page_has_what_an_officer_asks_for(federation: Federation) -> None:
    page = record.record(federation.folders[0], logs(federation, 0, 1, 2, 3))
    found = facts(page)
    study = federation.terms()[1]
    for label, text in {
        "Controller": "All hospitals, jointly",
        "Legal basis": "Article 9(2)(j)",
        "Retention": "ten years",
        "Purpose": "not stated",
        "Columns read": "a, b, c",
        "Outcome": "sick: no, yes",
        "Data set of site-0": "rows",
        "Rows of site-0": "10 to 19",
    }.items():
        assert found[label] == text
    assert found["Result checked by"].startswith("site-0 computed the result from totals verified")
    assert study.digest.hex(" ", 2) == found["Study, digest"]
    assert page.verdict[0] == "missing"  # the server keeps no log here
    parties = {row[0]: row[2] for row in page.parts[3].table[1:]}
    assert parties == {
        **dict.fromkeys(("site-0", "site-1", "site-2"), "yes"),
        "site-3": "no",
        "Runs the server": "no",
    }
    decided = page.parts[4].table[1:]
    assert [row[:4] for row in decided] == [
        (name, "an operator", "approved", "a test") for name in federation.names
    ]


def test_the_smallest_cell_of_the_opened_sum_is_named_and_warned_of(tmp_path: Path) -> None:
    at = tmp_path / "report.json"
    told = {"smallest_cell": "stage = IV", "smallest_cell_rows": 2, "pooled_rows": 40, "columns": 60}
    at.write_text(json.dumps({"disclosure": told}))
    for language in LANGUAGES:
        found = list(record._exposed(tmp_path, record.words(language)))
        assert found[0][1].startswith("stage = IV")
        assert len(found) == 3
    assert ("Smallest cell of the total", "stage = IV: 2 rows of 40 in all") in list(
        record._exposed(tmp_path, record.words("en"))
    )
    at.write_text(json.dumps({"disclosure": told | {"smallest_cell_rows": 5, "columns": 3}}))
    assert len(list(record._exposed(tmp_path, record.words("de")))) == 1
    at.write_text(json.dumps({"disclosure": None}))
    assert not list(record._exposed(tmp_path, record.words("fr")))
    at.write_text(json.dumps({"disclosure": {"smallest_cell": "a"}}))
    with pytest.raises(FileError, match="expected the smallest cell of a run"):
        list(record._exposed(tmp_path, record.words("en")))
    at.unlink()
    (tmp_path / "disclosure.json").write_text(json.dumps(told))  # a party's, of the sum that it checked
    assert len(list(record._exposed(tmp_path, record.words("en")))) == 3


def test_what_cannot_be_told_is_not_guessed(federation: Federation) -> None:
    page = record.record(federation.folders[0], logs(federation, 0))
    parties = {row[0]: row[2] for row in page.parts[3].table[1:]}
    assert (parties["site-0"], parties["site-1"]) == ("yes", "cannot be told from these logs")


def test_a_log_that_was_altered_makes_no_sound_page(federation: Federation) -> None:
    altered = logs(federation, 0, 1)
    altered["1"] = altered["1"].replace(b"an operator", b"another one", 1)
    assert record.record(federation.folders[0], altered).verdict[0] == "fails"


def test_the_page_is_written_in_every_language_and_nothing_in_it_is_markup(
    federation: Federation, tmp_path: Path
) -> None:
    for language in LANGUAGES:
        at = tmp_path / f"{language}.html"
        words = ["audit", "record", federation.folders[0], federation.folders[0] / AUDIT]
        done = CliRunner().invoke(app, [*map(str, words), "--html", str(at), "--language", language])
        assert done.exit_code == 0, done.output
        text = at.read_text(encoding="utf-8")
        assert f'lang="{language}"' in text
        assert "A &lt;b&gt;study&lt;/b&gt;" in text
        assert "site-0" in text
    refused = CliRunner().invoke(app, [*map(str, words), "--html", str(at), "--language", "xx"])
    assert refused.exit_code == 1


def leaves(table: dict[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


def test_every_language_says_the_same_things() -> None:
    """The same keys, and the same fields in each."""

    def shape(language: str) -> dict[str, set[str | None]]:
        return {
            key: {field for _, field, _, _ in string.Formatter().parse(text) if field}
            for key, text in leaves(record.words(language))
        }

    assert {"de", "en", "fr"} == set(LANGUAGES)
    assert all(shape(language) == shape("en") for language in LANGUAGES)


@given(some.integers(0, 10**9))
def test_a_band_holds_its_number_and_many_others(number: int) -> None:
    low, high = record.band(number)
    assert low <= number <= high
    assert record.band(low) == record.band(high) == (low, high)
    assert high - low + 1 >= low or low == 0


def test_the_code_digest_is_of_what_is_installed() -> None:
    assert record.code_digest() == record.code_digest()
    assert len(record.code_digest()) == 64
