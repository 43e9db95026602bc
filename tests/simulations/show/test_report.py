"""The page of a run: everything that a stranger must be told, and nothing that runs or is fetched."""

import re
from base64 import b64decode
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest
from typer.testing import CliRunner

from secure_afl.protocol.session.backend import Backend
from secure_afl.simulations.cli import main
from secure_afl.simulations.data.dataset import load
from secure_afl.simulations.data.partition import partition
from secure_afl.simulations.show.report import run_page
from secure_afl.simulations.study.run import run
from secure_afl.simulations.study.settings import Settings


def text_of(page: str) -> str:
    page = re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", page)).split())


def page_of(settings: Settings, source: str = "heart", clients: int | None = None) -> str:
    data = load(source)
    parts = partition(data, "site" if data.site is not None else "iid", clients, 0)
    return run_page(run(data, parts, settings, lambda phase: None), data.note, "secure-afl run")


def test_a_stranger_is_told_all(tmp_path: Path) -> None:
    html, figures = tmp_path / "run.html", tmp_path / "run.json"
    result = CliRunner().invoke(
        main.app, ["run", "--dropout", "0.25", "--html", str(html), "--json", str(figures)]
    )
    assert result.exit_code == 0
    page = html.read_text()
    text = text_of(page)
    for words in (
        "4 clients, one model",
        "1 fell silent",
        "bit for bit",
        "Cleveland",
        "sent for the sums",
        "No differential privacy was asked for",
        "Proven without seeing any row",
        "agree, by signatures",
        "ML-KEM-768",
        "Python 3.",
        "numpy",
        "collecting",
        "nothing is read from the rows",
        "Who the rows are",
        "effect 95 % interval p",
        "personal, everybody's test rows",
    ):
        assert words in text, words
    # Nothing is fetched, nothing runs; the picture is inside.
    assert not re.search(r"<script|<link|@import|https?://", page)
    pictures = re.findall(r'alt="([^"]*)" src="data:image/svg\+xml;base64,([^"]*)"', page)
    assert [alt for alt, _ in pictures] == [
        "effects of the columns with 95 % intervals",
        "accuracy of each client alone and together",
    ]
    drawn = b64decode(pictures[0][1]).decode()
    for words in ("sex = Male", "age (by", "effect on the predicted share with num = present"):
        assert words in drawn
    assert re.findall(r'(?:src|href)="(?!data:)', page) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (Settings(backend=Backend.PLAIN), "Nothing was hidden"),
        (Settings(backend=Backend.CKKS), "One client that helps the server is enough"),
        (Settings(backend=Backend.BFV, release="weights"), "the trained weights, and no sum"),
        (Settings(backend=Backend.BFV_MASK), "server and key holders together see no more"),
        (Settings(epsilon=2.0, clip=2.0), "ε = 2 and δ = 1e-05 for every row"),
    ],
    ids=lambda value: value.backend if isinstance(value, Settings) else "",
)
def test_what_was_not_hidden_is_said(settings: Settings, told: str) -> None:
    text = text_of(page_of(settings))
    assert told in text
    assert ("No client's statistics left it readable" in text) == (settings.backend is not Backend.PLAIN)
    assert ("Proven without seeing any row" in text) == (settings.epsilon is None)


@pytest.mark.slow
def test_personal_models_have_their_column() -> None:
    text = text_of(page_of(Settings(model="fedacnnl", personalize=True), "digits", 8))
    assert "personal, own test rows" in text
    assert "nothing of that left it" in text


def test_names_out_of_files_are_escaped() -> None:
    data = load("heart")
    parts = [replace(part, client=f"<b>{part.client}</b>") for part in partition(data, "site", None, 0)]
    page = run_page(run(data, parts, Settings(), lambda phase: None), data.note, "secure-afl run '<i>'")
    assert "<b>" not in page
    assert "<i>" not in page
    assert "&lt;b&gt;Cleveland" in page
