"""The command line as a person meets it."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from secure_afl.cli.terminal import console
from secure_afl.crypto.lattice.parameter_sets import LATTICES
from secure_afl.simulations.cli import main
from secure_afl.simulations.cli import run as run_cli
from secure_afl.simulations.data.dataset import load
from secure_afl.simulations.data.partition import partition
from secure_afl.simulations.study.settings import Settings

runner = CliRunner()


def run(*arguments: str) -> tuple[int, str]:
    result = runner.invoke(main.app, list(arguments), terminal_width=100)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def figures(path: Path, *arguments: str) -> dict:  # type: ignore[type-arg]
    code, output = run("run", *arguments, "--json", str(path))
    assert code == 0, output
    read: dict = json.loads(path.read_text())  # type: ignore[type-arg]
    return read


def test_differential_privacy(tmp_path: Path) -> None:
    code, output = run("run", "--epsilon", "4", "--clip", "2", "--json", str(tmp_path / "run.json"))
    assert code == 0
    for words in ("ε = 4, δ = 1e-05 for every row", "measured, of noise", "noise that only the clients know"):
        assert words in " ".join(output.split())
    found = json.loads((tmp_path / "run.json").read_text())
    assert found["certificate"] is None
    assert found["sums_bit_identical"] is None
    private = found["privacy"]
    assert (private["epsilon"], private["row_norm"]) == (4, 2)
    assert (private["fewest_survivors"], private["not_counted_on"]) == (3, 2)
    assert 0.5 < found["accuracy"]["together"] <= 1
    gram = private["client_deviations"]["gram"]
    assert run("run", "--epsilon", "8", "--clip", "2", "--json", str(tmp_path / "run.json"))[0] == 0
    weaker = json.loads((tmp_path / "run.json").read_text())["privacy"]["client_deviations"]["gram"]
    assert gram / 2.5 < weaker < gram / 1.5


@pytest.mark.slow
def test_differential_privacy_of_a_network(tmp_path: Path) -> None:
    said = str(tmp_path / "run.json")
    assert run("run", "--data", "digits", "--model", "fedacnnl", "--epsilon", "16", "--json", said)[0] == 0
    found = json.loads((tmp_path / "run.json").read_text())
    assert (found["privacy"]["epsilon"], found["privacy"]["row_norm"]) == (16, 1)
    assert found["certificate"] is None
    assert found["accuracy"]["together"] > 0.5


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (("--epsilon", "1", "--model", "fedacnnl", "--encoder", "spatial"), "needs the encoder seeded"),
        (("--epsilon", "1", "--model", "fedacnnl", "--personalize"), "needs the encoder seeded"),
        (("--epsilon", "1", "--model", "fedacnnl", "--clip", "1"), "needs epsilon with the model ridge"),
        (("--epsilon", "1", "--backend", "ckks"), "exact sums"),
        (("--epsilon", "1", "--backend", "plain"), "exact sums"),
        (("--clip", "1"), "needs epsilon with the model ridge"),
        (("--epsilon", "0"), "expected epsilon from 2^-20 to 64"),
        (("--epsilon", "1", "--delta", "1"), "expected delta"),
        (("--epsilon", "1", "--clip", "-1"), "above 0"),
    ],
)
def test_privacy_that_cannot_be_promised_is_refused(options: tuple[str, ...], fault: str) -> None:
    code, output = run("run", *options)
    assert code
    assert fault in " ".join(output.split())


def test_the_main_job_without_options(tmp_path: Path) -> None:
    code, output = run("run", "--json", str(tmp_path / "run.json"))
    assert code == 0
    for words in (
        "Cleveland",
        "Switzerland",
        "equal, bit for bit",
        "certificate",
        "Table 1",
        "95 % interval",
        "personal",
        "active server, hybrid",
    ):
        assert words in output
    found = json.loads((tmp_path / "run.json").read_text())
    assert found["backend"] == "mask"
    assert found["profile"] == "active"
    assert found["suite"] == "hybrid"
    assert found["survivors"] == found["clients"] == ["Cleveland", "Hungary", "Switzerland", "VA Long Beach"]
    assert found["sums_bit_identical"] is True
    assert 0 < found["weight_difference"] <= found["certificate"] <= 1e-6
    assert found["max_weight_difference"] <= found["weight_difference"]
    assert found["accuracy"]["together"] == found["accuracy"]["pooled_plain"] > 0.8
    assert set(found["accuracy"]["alone"]) == set(found["clients"])
    assert set(found["bytes"]) == {
        "upload_per_client",
        "download_per_client",
        "plain_float64_per_client",
        "key_exchange_per_client",
    }
    assert set(found["seconds"]) == {"client", "server", "key_holders", "plain"}
    values = found["parameters"]["values_per_round"]
    assert found["bytes"]["plain_float64_per_client"] == 8 * values
    payload = values * found["parameters"]["word_bytes"]
    assert payload < found["bytes"]["upload_per_client"] < payload + 1000


def test_dropouts_rounds_profiles_and_partitions(tmp_path: Path) -> None:
    options = "--data digits --clients 8 --partition labels:4 --dropout 0.25 --rounds 2 --profile semi-honest"
    found = figures(tmp_path / "a.json", *options.split(), "--suite", "x25519", "--seed", "3")
    assert [len(one) for one in found["survivors"]] == [6, 6]
    assert found["sums_bit_identical"] is True
    again = figures(tmp_path / "b.json", *options.split(), "--suite", "x25519", "--seed", "3")
    assert again["survivors"] == found["survivors"]
    assert again["accuracy"] == found["accuracy"]  # the seed fixes data and dropouts …
    other = figures(tmp_path / "c.json", *options.split(), "--suite", "x25519", "--seed", "4")
    assert other["rows"] != found["rows"]


def test_plain_must_be_named_and_says_so(tmp_path: Path) -> None:
    code, output = run("run", "--backend", "plain", "--dropout", "0.25", "--json", str(tmp_path / "p.json"))
    assert code == 0
    assert "shown to the server" in output
    found = json.loads((tmp_path / "p.json").read_text())
    assert found["sums_bit_identical"] is None
    assert len(found["survivors"]) == 3
    assert found["bytes"]["upload_per_client"] == found["bytes"]["plain_float64_per_client"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "released", "holders", "identical"),
    [
        ("bfv", "sum", 1, True),
        ("bfv --release weights", "weights", 1, None),
        ("bfv --key-holders 2 --rounds 2", "sum", 2, True),
        ("bfv+mask --profile semi-honest", "sum", 1, True),
        ("ckks", "weights", 1, None),
        ("ckks --release sum --rounds 2", "sum", 1, None),
    ],
)
def test_encrypted_backends(
    tmp_path: Path, options: str, released: str, holders: int, identical: bool | None
) -> None:
    found = figures(tmp_path / "e.json", "--backend", *options.split(), "--dropout", "0.25")
    assert found["sums_bit_identical"] is identical
    assert (found["encryption"]["released"], found["encryption"]["key_holders"]) == (released, holders)
    assert ("parameters" in found) is ("mask" in options)
    survivors = found["survivors"] if found["rounds"] == 2 else [found["survivors"]]
    assert [len(one) for one in survivors] == [3] * found["rounds"]
    assert found["weight_difference"] <= found["certificate"] < (1e-2 if "ckks" in options else 1e-6)
    assert found["seconds"]["key_holders"] > 0


def test_an_encrypted_network_is_the_masked_one(tmp_path: Path) -> None:
    options = "--model fedacnnl --personalize"
    found = [
        figures(tmp_path / f"{backend}.json", *options.split(), "--backend", backend)
        for backend in ("mask", "bfv", "bfv+mask")
    ]
    assert found[0]["max_weight_difference"] == 0.0
    for one in found[1:]:
        assert one["accuracy"] == found[0]["accuracy"]
        assert one["max_weight_difference"] == 0.0


def test_what_encryption_alone_does_not_bear_is_said() -> None:
    for backend, said in (("bfv", True), ("ckks", True), ("bfv+mask", False), ("mask", False)):
        code, output = run("run", "--backend", backend)
        assert code == 0
        assert ("colluding with the server" in output) is said


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    lines = ["ward,age,sex,outcome"]
    for i in range(120):
        age = int(draws.integers(20, 90))
        lines.append(f"ward {i % 3},{age},{'fm'[i % 2]},{'ill' if age > 55 else 'well'}")
    (tmp_path / "mine.csv").write_text("\n".join(lines))
    options = ["--data", str(tmp_path / "mine.csv"), "--site-column", "ward", "--label-column", "outcome"]
    found = figures(tmp_path / "f.json", *options)
    assert found["clients"] == ["ward 0", "ward 1", "ward 2"]
    assert found["classes"] == ["ill", "well"]
    assert found["accuracy"]["together"] > 0.7


def test_a_run_that_fails_leaves_no_figures_and_page_of_an_earlier_one(tmp_path: Path) -> None:
    indices = {"--json": tmp_path / "run.json", "--html": tmp_path / "run.html"}
    options = [str(word) for pair in indices.items() for word in pair]
    assert run("run", *options)[0] == 0
    before = {path: path.read_bytes() for path in indices.values()}
    assert run("run", *options, "--dropout", "0.5")[0] == 1
    for path, data in before.items():
        assert not path.exists()
        assert path.with_name(f"run.previous{path.suffix}").read_bytes() == data


@pytest.mark.parametrize("source", ["mine.csv", "mine.npz", "synthetic"])
@pytest.mark.parametrize("model", ["ridge", "fedacnnl"])
def test_no_privacy_is_promised_on_a_scale_that_was_read_from_the_rows(
    tmp_path: Path, source: str, model: str
) -> None:
    """One row, left out, can change the scale of all others: two neighbouring files, one number apart."""
    rows = [f"{row % 4},{row % 7},{row % 2}" for row in range(60)]
    scales = []
    for last in ("3,6,1", "3,600,1"):
        (tmp_path / "mine.csv").write_text("\n".join(["site,a,label", *rows, last]))
        scales.append(load(str(tmp_path / "mine.csv")).X[5, 0])
    assert scales[0] != scales[1]
    np.savez(tmp_path / "mine.npz", x=np.arange(120.0).reshape(60, 2), y=np.arange(60) % 2)
    data = source if source == "synthetic" else str(tmp_path / source)
    clients = ("--clients", "5", "--partition", "iid") if source == "mine.npz" else ()
    code, output = run("run", "--data", data, "--model", model, "--epsilon", "8", *clients)
    assert code == 1
    assert "expected a scale that was agreed on beforehand for --epsilon" in " ".join(output.split())


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("--data", "absent.csv"), "no data 'absent.csv'"),
        (("--partition", "nope"), "unknown partition 'nope'"),
        (("--dropout", "0.5"), "leave 2 survivors, fewer than the threshold 3"),
        (("--data", "digits", "--clients", "2"), "expected at least 3 clients"),
        (("--clients", "3"), "4 sites"),
        (("--backend", "paper"), "'paper' is not one of 'mask',"),
        (("--backend", "bfv", "--release", "all"), "expected sum or weights"),
        (("--key-holders", "2"), "needs the backend"),
        (("--release", "weights"), "needs the backend"),
        (("--backend", "bfv", "--profile", "semi-honest"), "always assumes an active server"),
        (("--backend", "ckks", "--key-holders", "2"), "a committee of key holders opens sums under BFV"),
        (("--backend", "ckks", "--rounds", "2"), "release the sum"),
        (("--backend", "bfv+mask", "--release", "weights"), "release the sum"),
        (("--profile", "kind"), "kind"),
        (("--rounds", "0"), "--rounds"),
        (("--json", "/nowhere/at/all.json"), "cannot write into the folder"),
    ],
)
def test_what_cannot_be_run_is_said_in_one_line(arguments: tuple[str, ...], what: str) -> None:
    code, output = run("run", *arguments)
    assert code != 0
    assert what in " ".join(output.split())
    assert "Traceback" not in output


def test_help_teaches() -> None:
    for arguments in (("--help",), ("run", "--help"), ("bench", "--help"), ("bench", "masking", "--help")):
        code, output = run(*arguments)
        assert code == 0
        assert len(output.splitlines()) > 5


@pytest.mark.slow
def test_the_upload_of_256_features_and_50_clients_is_a_packed_triangle(tmp_path: Path) -> None:
    """The bar: under 1.25 × (packed triangle × word width), keys apart; a Gram is never sent whole."""
    draws = np.random.default_rng(0)
    x = draws.uniform(-1, 1, (1000, 256))
    np.savez(tmp_path / "wide.npz", x=x, y=(x[:, :10] @ np.eye(10)).argmax(axis=1))
    options = ["--data", str(tmp_path / "wide.npz"), "--clients", "50", "--suite", "x25519"]
    found = figures(tmp_path / "w.json", *options)
    triangle = 256 * 257 // 2
    assert found["bytes"]["upload_per_client"] < 1.25 * triangle * found["parameters"]["word_bytes"]
    assert found["sums_bit_identical"] is True


@pytest.mark.long
def test_the_benchmark_measures_what_it_says(tmp_path: Path) -> None:
    code, output = run("bench", "masking", "--repeats", "1", "--json", str(tmp_path / "bench.json"))
    assert code == 0, output
    found = json.loads((tmp_path / "bench.json").read_text())
    assert 0.3 < found["masking"]["share_of_keystream"] < 1.3
    assert found["machine"]["versions"]["cryptography"]


def test_the_homomorphic_benchmark_measures_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from secure_afl.simulations.benchmarks import homomorphic

    monkeypatch.setattr(homomorphic, "_VALUES", 5000)
    monkeypatch.setattr(homomorphic, "_CLIENTS", 4)
    code, output = run("bench", "homomorphic", "--repeats", "1", "--json", str(tmp_path / "bench.json"))
    assert code == 0, output
    found = json.loads((tmp_path / "bench.json").read_text())
    assert {row["set"] for row in found["sets"]} == {"NVFlare", "NVFlare, public key", *LATTICES}
    for row in found["sets"]:
        assert min(row["client_s"], row["server_s"], row["holder_s"]) > 0
        if row["set"] in LATTICES:
            lattice = LATTICES[row["set"]]
            assert row["bytes_per_value"] == lattice.ciphertext_bytes(5000) / 5000
            assert row["largest_error"] <= row["guaranteed_error"]
    assert found["machine"]["versions"]["tenseal"]


@pytest.mark.slow
def test_a_network_trained_under_masks_is_the_pooled_one(tmp_path: Path) -> None:
    options = [
        "--model",
        "fedacnnl",
        "--data",
        "digits",
        "--clients",
        "5",
        "--suite",
        "x25519",
        "--dropout",
        "0.2",
    ]
    found = figures(tmp_path / "n.json", *options)
    assert found["model"] == "fedacnnl"
    assert len(found["survivors"]) == 4
    assert found["sums_bit_identical"] is True
    assert found["weight_difference"] == 0.0
    assert found["accuracy"]["together"] == found["accuracy"]["pooled_plain"] > 0.95
    code, output = run("run", "--model", "fedacnnl", "--rounds", "2")
    assert code != 0
    assert "one sum a layer" in " ".join(output.split())
    code, output = run("run", "--model", "transformer")
    assert code != 0
    assert "expected ridge or logistic or poisson or" in " ".join(output.split())


@pytest.mark.long
@pytest.mark.slow
def test_a_network_that_takes_long_says_so_before_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    data = load("digits")
    parts = partition(data, "iid", 4, 0)
    settings = Settings(model="fedacnnl")
    assert (
        0
        < run_cli.network_seconds(settings, data, parts)
        < run_cli.network_seconds(settings, data, parts * 10)
    )
    for seconds, said in ((60.0, "about 60 s of CPU, as the network is trained 6 times"), (9.0, "")):
        monkeypatch.setattr(run_cli, "network_seconds", lambda *_, seconds=seconds: seconds)
        with console.capture() as shown:
            run_cli.announce_network(settings, data, parts)
        assert said in " ".join(shown.get().split())
        assert bool(said) == bool(shown.get())


@pytest.mark.long
def test_personal_models_are_reported_and_groups_need_trust(tmp_path: Path) -> None:
    data = ["run", "--model", "fedacnnl", "--data", "digits", "--clients", "16", "--partition", "labels:5"]
    file = tmp_path / "figures.json"
    result = runner.invoke(main.app, [*data, "--personalize", "--json", str(file)])
    assert result.exit_code == 0, result.output
    said = json.loads(file.read_text())
    own = said["accuracy"]["personal_by_client"]
    assert own.keys() == said["rows"].keys()
    assert said["groups"] == [16]
    assert said["accuracy"]["personal"] > 0.95
    assert said["sums_bit_identical"] is True
    assert "personal" in result.output
    for options, what in (
        (["--personalize", "--groups", "2"], "trusts_reports"),
        (["--encoder", "classwise"], "trusts_reports"),
        (["--device", "nowhere"], "a device that torch has here"),
        (["--personalize", "--groups", "9", "--trust-reports", "verified"], "at most 2 groups of 16"),
    ):
        refused = runner.invoke(main.app, [*data, *options])
        assert refused.exit_code == 1
        assert what in refused.output
    for options in (["--groups", "2"], ["--model", "ridge", "--personalize"]):
        assert runner.invoke(main.app, [*data, *options]).exit_code == 2
    grouped = runner.invoke(
        main.app,
        [*data, "--personalize", "--groups", "2", "--trust-reports", "verified", "--json", str(file)],
    )
    assert grouped.exit_code == 0, grouped.output
    assert sum(json.loads(file.read_text())["groups"]) == 16
