"""Experiments on small problems: what they measure, and that tables and plots say what was measured."""

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.text import Text
from rich.console import Console
from rich.table import Table
from typer.testing import CliRunner

from secure_afl.models.networks.fedacnnl import FedACnnL
from secure_afl.models.networks.network import Dense, Fourier, Layer, Network, ReLU, Sparse
from secure_afl.models.networks.pfedacnnl import PFedACnnL
from secure_afl.protocol.session.backend import Backend
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.session.profile import Trust
from secure_afl.simulations.baselines import model as gradient
from secure_afl.simulations.baselines.methods import METHODS
from secure_afl.simulations.baselines.rivals import Deep, Refinement
from secure_afl.simulations.baselines.settings import TUNED, Settings
from secure_afl.simulations.cli import main
from secure_afl.simulations.data.dataset import load
from secure_afl.simulations.experiments import (
    encoders,
    features,
    headline,
    heterogeneity,
    personal,
    plots,
    privacy,
    rivals,
    security,
)
from secure_afl.simulations.experiments.analytic import train
from secure_afl.simulations.experiments.links import Link
from secure_afl.simulations.experiments.problems import PROBLEMS, Problem
from secure_afl.sums.aggregation import Aggregate, MaskedAggregator

torch.set_num_threads(1)  # small tensors: handing over to a second thread costs more than it gives
TINY = Problem(
    "digits, tiny",
    "digits",
    "labels:2",
    12,
    lambda: gradient.linear(64, 10),
    {
        "linear": (Network((64,), (), 10), "seeded", 1e-2),
        "64-30-10": (Network((64,), (Dense(30), ReLU()), 10), "classwise", 1e-2),
    },
    {"fedzo": "slow"},
)


def shown(*tables: Table) -> str:
    console = Console(width=200, record=True, file=StringIO())
    for table in tables:
        console.print(table)
    return console.export_text()


def ignore(step: str) -> None:
    pass


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROBLEMS, "tiny", TINY)
    for method in METHODS:
        monkeypatch.setitem(
            TUNED, (method, "tiny"), Settings(3, rate=0.1, steps=2, own_rate=0.1, own_steps=2)
        )


@given(st.floats(0.1, 1e4), st.floats(0, 2), st.integers(0, 10**8), st.integers(0, 10**8), st.integers(0, 99))
def test_a_link_is_bytes_over_bandwidth_and_two_latencies_a_round_trip(
    megabits: float, latency: float, up: int, down: int, trips: int
) -> None:
    expected = 8 * (up + down) / (megabits * 1e6) + trips * 2 * latency
    assert Link(megabits, latency).seconds(up, down, trips) == pytest.approx(expected)


@pytest.mark.slow
def test_the_account_measures_the_training_that_it_names() -> None:
    """Timing changes no model, masks change no model, and every cost is there."""
    data, parts = TINY.rows(0)
    network, encoder, ridge = TINY.networks["64-30-10"]
    masked = train(data, parts, network, ridge=ridge, encoder=encoder, seed=3)
    plain = train(data, parts, network, ridge=ridge, encoder=encoder, seed=3, backend=Backend.PLAIN)
    rows = np.concatenate([part.train for part in parts])
    tests = np.concatenate([part.test for part in parts])
    site = np.repeat([part.client for part in parts], [len(part.train) for part in parts])
    owner = np.repeat([part.client for part in parts], [len(part.test) for part in parts])
    untimed = PFedACnnL(
        network,
        ridge=ridge,
        encoder=encoder,
        seed=3,
        aggregator=MaskedAggregator(Policy(trusts_reports=Trust.VERIFIED)),
    ).fit(data.X[rows], data.y[rows], site)
    assert masked.accuracy == plain.accuracy == untimed.score(data.X[tests], data.y[tests])
    assert (
        masked.personal == plain.personal == (untimed.predict(data.X[tests], owner) == data.y[tests]).mean()
    )
    values = sum(one.length for one in untimed.rounds_)
    weights = 8 * sum(layer.size for layer in untimed.weights_)
    assert plain.account.bytes_up == 8 * values
    assert plain.account.bytes_down == weights
    assert plain.account.protocol_seconds == 0
    assert (plain.account.round_trips, masked.account.round_trips) == (2, 3 + 3 * 2)
    assert masked.account.bytes_down > weights
    assert 4 * values < masked.account.bytes_up < 8 * values + 40_000
    assert (
        min(masked.account.learning_seconds, masked.account.protocol_seconds, masked.account.adapting_seconds)
        > 0
    )
    lost = train(data, parts, network, ridge=ridge, encoder=encoder, seed=3, dropout=0.2)
    assert (masked.survivors, lost.survivors) == (12, 10)
    assert lost.accuracy != masked.accuracy
    in_the_clear = train(
        data, parts, network, ridge=ridge, encoder=encoder, seed=3, dropout=0.2, backend=Backend.PLAIN
    )
    assert (lost.accuracy, lost.personal) == (in_the_clear.accuracy, in_the_clear.personal)


@pytest.mark.long
@pytest.mark.usefixtures("tiny")
def test_the_headline_is_made_of_every_method(tmp_path: Path) -> None:
    said: list[str] = []
    figures = headline.measure(["tiny"], 2, Link(), said.append)
    assert len(said) == headline.steps(["tiny"], 2)
    records = figures["records"]
    methods = {record["method"] for record in records}
    assert methods == {
        *(METHODS.keys() - {"fedzo"}),
        headline.MASKED,
        *(f"{kind} ({name})" for kind in ("fedacnnl", "pfedacnnl") for name in TINY.networks),
    }
    for record in records:
        assert record["compute_seconds"] > 0
        exchanged = record["method"] not in ("local", "centralized")
        assert (record["network_seconds"] > 0) == (record["bytes_up"] > 0) == exchanged
        assert headline.total(record) == pytest.approx(record["curve"][-1][0])
        assert 0 <= record["accuracy"] <= 1
    text = shown(*headline.tables(figures))
    assert "digits, tiny; 2 seeds" in text
    assert all(method in text for method in methods)
    figures = json.loads(json.dumps(figures))  # as it comes back from a file
    assert shown(*headline.tables(figures)) == text
    files = plots.headline(figures, tmp_path)
    assert [file.read_bytes()[:4] for file in files] == [b"\x89PNG"]


def test_time_to_an_accuracy_is_that_of_the_first_point_there() -> None:
    record = {"curve": [(1.0, 0.3), (2.0, 0.6), (3.0, 0.5), (4.0, 0.7)]}
    assert [headline.reached(record, target) for target in (0.1, 0.6, 0.65, 0.8)] == [1.0, 2.0, 4.0, None]
    assert headline.spread([0.5], 2) == "0.50"
    assert headline.spread([0.4, 0.6], 2) == "0.50 ± 0.14"


@pytest.mark.long
def test_what_masks_cost_is_a_ratio_of_the_same_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROBLEMS, security._PROBLEM, TINY)
    said: list[str] = []
    figures = security.measure(Link(), said.append)
    assert len(said) == security.steps()
    text = shown(*security.tables(figures))
    assert "Masked against plain float64, 12 clients" in text
    masked, plain = figures["records"][:2]
    assert (masked["backend"], plain["backend"]) == ("mask", "plain")
    assert f"{masked['bytes_up'] / plain['bytes_up']:.2f}" in text
    # The parts are all of what masks add.
    cells = security._added(masked, plain, Link()).values()
    network = [int(cell) for cell in cells if "|" not in cell]
    assert sum(network) == pytest.approx(
        1e3 * (masked["network_seconds"] - plain["network_seconds"]), abs=len(network)
    )
    phases = {phase for of in security._PHASES.values() for phase in of}
    assert phases >= masked["phases"].keys()


@pytest.mark.long
def test_encoders_are_chosen_on_held_out_rows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for row in list(encoders.ROWS)[1:-1]:
        monkeypatch.delitem(encoders.ROWS, row)
    monkeypatch.setattr(
        encoders, "GRADIENT", {"SGD, linear": ("mnist-linear", lambda: gradient.linear(784, 10))}
    )
    monkeypatch.setitem(TUNED, ("centralized", "mnist-linear"), Settings(2, rate=0.1))
    said: list[str] = []
    figures = encoders.measure(1, said.append)
    assert len(said) == encoders.steps(1)
    first, last, sgd = figures["records"]
    assert first["validation"] > last["validation"] > 0.7
    assert first["test"] > last["test"] > 0.7
    assert sgd["validation"] is None
    assert f"{first['row']} *" in shown(*encoders.tables(figures))
    assert plots.encoders(figures, tmp_path)[0].exists()


def test_features_are_chosen_on_held_out_rows_and_marked_by_width(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: dict[str, tuple[Layer, ...]] = {
        "columns": (),
        "and 5 cosines": (Fourier(5, 2.0),),
        "and 90 cosines": (Fourier(90, 2.0),),
    }
    monkeypatch.setattr(features, "PROBLEMS", {"heart": features.Problem("heart", 2, (50, 200), rows)})
    said: list[str] = []
    figures = features.measure(2, said.append)
    assert len(said) == features.steps(2) == 6
    records = figures["records"]
    assert {(r["row"], r["seed"]) for r in records} == {(row, seed) for row in rows for seed in range(4)}
    assert [r["values"] for r in records[::2]][:3] == [31, 36, 121]
    assert all(r["held_out"] > 0.7 and r["test"] > 0.7 for r in records)
    for wide, narrow in ((0.9, 0.8), (0.8, 0.9)):
        for record in records:
            record["held_out"] = wide if record["values"] == 121 else narrow * (record["values"] == 36)
        text = shown(*features.tables(figures))
        assert "and 5 cosines *" in text
        assert ("and 90 cosines *" in text) == (wide > narrow)


def test_features_of_the_table_are_those_of_the_network() -> None:
    """Its accuracy is that of the estimator, whose sums are masked."""
    data, network = load("heart"), Network((30,), (Fourier(40, 2.0),), 2)
    model = FedACnnL(network, seed=3, ridge=0.1).fit_pooled(data.X, data.y)
    np.testing.assert_allclose(
        features.inputs(network, data.X, 3) @ model.weights_[-1], model.decision_function(data.X)
    )


@pytest.mark.slow
def test_noise_costs_accuracy_by_whom_it_is_trusted_to(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(privacy, "PROBLEMS", ("digits",))
    totals: list[np.ndarray] = []
    honest = privacy._Sums.sum

    def kept(*arguments: Any) -> Aggregate:
        one = honest(*arguments)
        totals.append(one.total)
        return one

    monkeypatch.setattr(privacy._Sums, "sum", kept)
    said: list[str] = []
    figures = privacy.measure(2, said.append, (0.5, 16.0), 1e-6)
    assert figures["delta"] == 1e-6
    assert len(said) == privacy.steps(2) == 2

    def mean(trust: str | None, epsilon: float | None) -> float:
        found = [r["accuracy"] for r in figures["records"] if (r["trust"], r["epsilon"]) == (trust, epsilon)]
        assert len(found) == 2
        return float(np.mean(found))

    assert mean(None, None) > 0.9
    for trust in privacy.TRUST:
        assert min(mean(None, None), mean(trust, 16.0)) > mean(trust, 0.5) + 0.1
    # Accuracies of one run are luck where the noise is alike. Its size is none, over thousands of entries.
    strong, weak = (totals[first : first + 3] for first in (0, 3))
    central, clients, local = (float(np.std(one - other)) for one, other in zip(strong, weak, strict=True))
    assert local > 2 * clients > 2 * 1.15 * central
    text = shown(*privacy.tables(figures))
    assert f"{mean('clients', 16.0):.3f} ±" in text
    assert plots.privacy(figures, tmp_path)[0].exists()


def test_the_default_encoder_is_one_of_the_table() -> None:
    encoder, ridge = PFedACnnL(TINY.networks["linear"][0]).get_params()["encoder"], 3e-3
    assert encoders.ROWS[f"{encoder}, contrast"][1].value == encoder
    assert PFedACnnL(TINY.networks["linear"][0]).ridge == ridge


@pytest.mark.long
def test_heterogeneity_has_a_figure_for_every_cell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(heterogeneity, "CONCENTRATIONS", (0.1, 10.0))
    monkeypatch.setattr(heterogeneity, "METHODS_SHOWN", ("fedavg",))
    monkeypatch.setattr(heterogeneity, "_ROUNDS", 1)
    problem = PROBLEMS["mnist-cnn"]
    network = Network((1, 28, 28), (), 10)
    monkeypatch.setitem(
        PROBLEMS, "mnist-cnn", replace(problem, networks={"conv 64": (network, "seeded", 0.1)})
    )
    said: list[str] = []
    figures = heterogeneity.measure(1, said.append)
    assert len(said) == heterogeneity.steps(1)
    assert {(record["method"], record["concentration"]) for record in figures["records"]} == {
        (method, concentration)
        for method in ("fedavg", "fedacnnl", "pfedacnnl")
        for concentration in (0.1, 10.0)
    }
    text = shown(*heterogeneity.tables(figures))
    assert "A = 0.1" in text
    assert "pfedacnnl" in text
    assert "fedacnnl − fedavg" in text
    assert plots.heterogeneity(figures, tmp_path)[0].exists()


@pytest.mark.long
def test_a_personal_model_is_at_least_as_good_as_alone_and_together() -> None:
    """On own held-out rows, on average over twenty divisions of the four hospitals."""
    found = personal.measure(20, ignore)["records"]
    own = {
        model: np.mean([one["own"] for one in found if (one["partition"], one["model"]) == ("site", model)])
        for model in personal.MODELS
    }
    assert own["personal"] >= max(own["alone"], own["together"])


def test_what_personal_models_are_worth_is_a_mean_of_paired_differences() -> None:
    figures = personal.measure(2, ignore)
    own = {
        model: [one["own"] for one in figures["records"] if one["model"] == model][:2]
        for model in personal.MODELS
    }
    gain = 100 * np.mean(np.subtract(own["personal"], own["together"]))
    text = shown(*personal.tables(figures))
    assert f"{gain:+.2f} ±" in text
    assert "dealt to four clients at random" in text


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
def test_the_command_writes_figures_and_plots(tmp_path: Path) -> None:
    file, folder = tmp_path / "out.json", tmp_path / "plots"
    result = CliRunner().invoke(
        main.app,
        [
            "experiment",
            "headline",
            "--problem",
            "tiny",
            "--seeds",
            "1",
            "--json",
            str(file),
            "--plot",
            str(folder),
        ],
    )
    assert result.exit_code == 0, result.output
    assert json.loads(file.read_text())["link"] == {"megabits": 100.0, "latency": 0.025}
    assert (folder / "headline-tiny.png").exists()
    assert "1 of" in result.stderr
    again = CliRunner().invoke(main.app, ["experiment", "show", str(file)])
    assert again.stdout == result.stdout
    (tmp_path / "other.json").write_text("{}")
    result = CliRunner().invoke(main.app, ["experiment", "show", str(tmp_path / "other.json")])
    assert (result.exit_code, "expected the figures of an experiment" in result.output) == (1, True)
    result = CliRunner().invoke(main.app, ["experiment", "headline", "--problem", "huge"])
    assert result.exit_code == 1
    assert "expected problems out of" in result.output
    result = CliRunner().invoke(main.app, ["experiment", "encoders", "--json", "/nowhere/x.json"])
    assert result.exit_code == 2


def record(method: str, accuracy: float, sent: int, **more: Any) -> dict[str, Any]:
    return {
        "method": method,
        "personal": False,
        "seed": 0,
        "accuracy": accuracy,
        "compute_seconds": 1.0,
        "network_seconds": 1.0,
        "bytes_up": sent,
        "curve": [(2.0, accuracy)],
        **more,
    }


@pytest.mark.slow
def test_all_methods_of_two_files_are_drawn_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every name once a panel, none over another; hollow if and only if something leaves a client in the clear."""
    of_headline = [
        record(method, accuracy, sent, problem="mnist-linear", dropout=dropout)
        for method, accuracy, sent, dropout in (
            ("fedavg", 0.9, 5_000_000, 0.0),
            ("fedavg", 0.1, 5_000_000, 0.2),
            ("fedavg, masked", 0.9, 5_100_000, 0.0),
            ("local", 0.8, 0, 0.0),
            ("centralized", 0.95, 0, 0.0),
            ("fedacnnl (linear)", 1.0, 1_000_000, 0.0),
        )
    ]
    of_rivals = [
        record(method, accuracy, 1_000_000, features="pixels", sees="", gap=None)
        for method, accuracy in (
            ("afl", 0.9),
            ("deepafl, 0 layers", 0.2),
            ("deepafl, 5 layers", 0.9),
            ("safle, masked", 0.9),
            ("fedacnnl (pixels)", 0.5),  # that of headline counts
        )
    ]
    shared = {"machine": {}, "link": {"megabits": 100.0, "latency": 0.025}, "seeds": 1}
    files = [tmp_path / "headline.json", tmp_path / "rivals.json"]
    for file, records in zip(files, (of_headline, of_rivals), strict=True):
        file.write_text(json.dumps({"experiment": file.stem, "records": records, **shared}))
    figures: list[Any] = []
    save = plots._saved

    def saved(figure: Any, file: Path) -> Path:
        figures.append(figure)
        return save(figure, file)

    monkeypatch.setattr(plots, "_saved", saved)
    monkeypatch.setattr("secure_afl.simulations.experiments.headline.tables", lambda figures: [])
    monkeypatch.setattr("secure_afl.simulations.experiments.rivals.tables", lambda figures: [])
    command = ["experiment", "show", *map(str, files), "--plot", str(tmp_path / "plots")]
    result = CliRunner().invoke(main.app, command)
    assert result.exit_code == 0, result.output
    (file,) = (tmp_path / "plots").iterdir()
    assert file.name == "methods-mnist-5k-20-clients-with-2-labels-each-common.png"
    hollow = {"fedavg: linear", "centralized: linear", "afl: pixels", "deepafl: pixels"}
    filled = {"fedavg, masked: linear", "local: linear", "linear", "safle, masked: pixels"}
    for panel, silent in zip(figures[0].axes, ({"local: linear", "centralized: linear"}, set()), strict=True):
        assert sorted(text.get_text() for text in panel.texts) == sorted(hollow | filled)
        boxes = [Text.get_window_extent(text) for text in panel.texts]  # without lines to points
        assert not any(one.count_overlaps(boxes[:at]) for at, one in enumerate(boxes))
        fills = [bars[0].get_markerfacecolor() for bars in panel.containers]
        assert fills.count("white") == len(hollow - silent)
        assert len(fills) == len(hollow | filled) - len(silent)
    files[1].write_text(json.dumps({"experiment": "privacy", "records": [], **shared}))
    result = CliRunner().invoke(main.app, command)
    assert (result.exit_code, "only headline and rivals are drawn together" in result.output) == (1, True)


@pytest.mark.long
def test_rivals_stand_beside_ours_with_what_the_server_sees(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rivalry = rivals.Rivalry(
        network=Network((64,), (), 10),
        ridge=0.1,
        codes=(Sparse(20, 2, 1, 0.0, 1.0),),
        codes_ridge=0.1,
        deep=Deep(10, 12, 2, 0.1, 0.1),
        refinement=Refinement(50, 0.1, 1.0),
        gradient=Settings(2, rate=0.1, own_rate=0.1, pull=0.1),
        wider={"and 30 cosines": (Network((64,), (Fourier(30, 4.0),), 10), 0.1)},
    )
    monkeypatch.setattr(rivals, "RIVALRIES", {"pixels": rivalry})
    monkeypatch.setattr(rivals, "PROBLEM", TINY)
    said: list[str] = []
    figures = rivals.measure(2, Link(), said.append)
    assert len(said) == rivals.steps(2)
    of = {one["method"]: one for one in figures["records"] if one["seed"] == 0}
    ours = of["fedacnnl (pixels)"]
    # The same model as AFL's, to rounding; ours alone is that of the pooled rows bit for bit.
    assert ours["accuracy"] == of["afl"]["accuracy"]
    assert ours["gap"] == of["safle, masked"]["gap"] == of["fedacnnl (and 30 cosines)"]["gap"] == 0
    assert all(0 < of[name]["gap"] < 1e-6 for name in ("afl", "safle", "deepafl, 2 layers"))
    assert of["apfl"]["accuracy"] == of["apfl, masked"]["accuracy"]
    assert of["fedavg, masked"]["gap"] is None
    assert ours["bytes_up"] > 0 == of["local"]["bytes_up"]
    text = shown(*rivals.tables(figures))
    assert all(method in text for method in of)
    gain = 100 * np.mean(
        [
            ours["accuracy"] - theirs["accuracy"]
            for ours, theirs in zip(
                *(
                    [one for one in figures["records"] if one["method"] == method]
                    for method in ("fedacnnl (and 30 cosines)", "safle")
                ),
                strict=True,
            )
        ]
    )
    assert f"{gain:+.2f} ±" in text
    assert shown(*rivals.tables(json.loads(json.dumps(figures)))) == text
    assert plots.rivals(figures, tmp_path)[0].exists()
