"""Studies of arrays, and of the features of a frozen backbone that the study names."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("flwr", reason="FLOWER IS NOT INSTALLED: nodes are not tested here")

from worlds.folders import DEEP, Federation, Post, learned, model
from worlds.onnx_file import onnx
from worlds.patience import HANG

from secure_afl.errors import DropoutWarning
from secure_afl.models.networks.backbone import Backbone
from secure_afl.node import samples
from secure_afl.node.explained import sections
from secure_afl.node.preflight import looked_at
from secure_afl.node.site import Folder
from secure_afl.node.study import NetworkStudy, packed, parse
from secure_afl.protocol.durable.store import snapshot
from secure_afl.protocol.files.keys import read_key
from secure_afl.protocol.session.errors import FileError
from secure_afl.protocol.transport.post import Channel, Envelope
from secure_afl.simulations.cli import main

WEIGHTS = np.random.default_rng(0).uniform(-1, 1, (12, 5)).astype(np.float32)
NET = onnx(WEIGHTS)
SHA = hashlib.sha256(NET).hexdigest()
ARRAYS = """
label = "y"
classes = ["0", "1"]
max_rows = 2000
[fedacnnl]
input_shape = [12]
layers = [["Dense", 4], ["ReLU"]]
scale = 255.0
"""
FROZEN = f"""
label = "y"
classes = ["0", "1"]
max_rows = 100
[fedacnnl]
input_shape = [5]
layers = []
scale = 255.0
[fedacnnl.backbone]
file = "net.onnx"
sha256 = "{SHA}"
input_shape = [12]
limit = 4.0
"""


def of_arrays(root: Path, study: str, content: bytes = NET) -> Federation:
    """Four sites with samples in files of arrays; no row is in a table, and the server has no backbone."""
    made, draws = Federation(root, study=study), np.random.default_rng(1)
    for number, folder in enumerate(made.folders):
        X = draws.integers(0, 256, (12 + number, 12), dtype=np.uint8)
        np.savez(folder / "samples.npz", X=X, y=(X[:, 0] > 99).astype(np.int64))
        (folder / "rows.csv").unlink()
        (folder / "data.toml").write_text('table = "samples.npz"\nname = "samples"\n')
        (folder / "net.onnx").write_bytes(content)
    return made


def finding(folder: Path) -> tuple[bool, str]:
    """What a party's preflight says of its data."""
    return next((one.fault, one.said) for one in looked_at(folder) if one.what == "data")


def test_sites_learn_from_the_features_of_the_backbone_that_their_study_names(tmp_path: Path) -> None:
    """Bit for bit as from the pooled features; every site keeps its own."""
    federation = of_arrays(tmp_path, FROZEN)
    post, study = Post(federation), federation.terms()[1]
    weights = learned(federation, post)
    assert not post.refusals
    arrays = [np.load(folder / "samples.npz") for folder in federation.folders]
    X, y = np.vstack([one["X"] for one in arrays]), np.concatenate([one["y"] for one in arrays])
    backbone = Backbone.of_onnx(federation.folders[0] / "net.onnx", limit=4.0)
    rows = backbone.rows(X.astype(np.float32) / np.float32(255))
    assert np.array_equal(study.estimator().fit_pooled(rows, y.astype(str)).weights_[-1], weights)
    (session,) = post.sessions
    assert b"end answered" in post.ask(0, Envelope(Channel.END, session, packed([weights])))
    assert np.array_equal(model(federation.folders[0])[0], weights)
    assert len(model(federation.folders[0], "personal.npz")) == 1
    (kept,) = (federation.folders[0] / samples.FEATURES).iterdir()
    assert kept.stat().st_mode & 0o777 == 0o600


@pytest.mark.long
def test_real_nodes_learn_from_a_backbone_and_predict_with_it(tmp_path: Path) -> None:
    """The study's parties get the file beside their kits: `check` says where it belongs, and which it must be."""
    from secure_afl.simulations.network.loopback import Loopback

    federation = of_arrays(tmp_path / "parties", FROZEN)
    (federation.folders[2] / "net.onnx").rename(tmp_path / "net.onnx")
    fault, said = finding(federation.folders[2])
    assert fault
    assert f"{federation.folders[2] / 'net.onnx'}: expected the backbone" in said
    assert SHA in said
    (tmp_path / "net.onnx").rename(federation.folders[2] / "net.onnx")
    with Loopback(tmp_path / "network", federation.folders, federation.server) as network:
        network.run(deadline=HANG, limit=2 * HANG)
    expected = in_process(federation)
    for folder in (federation.server, *federation.folders):
        assert np.array_equal(model(folder)[0], expected)
    own = federation.folders[0]
    for name in ("model.npz", "personal.npz"):
        scores = predicted(own / name, own / "samples.npz", tmp_path / f"{name}.csv")
        assert np.array_equal(scores, scored(federation, model(own, name)))


def in_process(federation: Federation) -> np.ndarray:
    """The weights of the pooled features."""
    study = federation.terms()[1]
    found = [Folder(folder).data(study) for folder in federation.folders]
    rows, labels = np.vstack([one.X for one in found]), np.concatenate([one.y for one in found])
    return np.asarray(study.estimator().fit_pooled(rows, labels).weights_[-1])


def scored(federation: Federation, layers: list[np.ndarray]) -> np.ndarray:
    """Scores of the first site's features, by a fitted estimator with these weights."""
    study = federation.terms()[1]
    rows = Folder(federation.folders[0]).data(study)
    network = study.estimator().fit_pooled(rows.X, rows.y)
    network.weights_ = layers
    return np.asarray(network.decision_function(rows.X))


def predicted(network: Path, samples: Path, out: Path) -> np.ndarray:
    """Scores that `predict` wrote, whose largest names the prediction."""
    result = CliRunner().invoke(main.app, ["predict", str(network), str(samples), "--out", str(out)])
    assert result.exit_code == 0, result.output
    head, *lines = [line.split(",") for line in out.read_text().splitlines()]
    assert head == ["row", "y", "score of 0", "score of 1"]
    scores = np.array([line[2:] for line in lines], dtype=float)
    assert [line[:2] for line in lines] == [
        [str(row), str(at)] for row, at in enumerate(scores.argmax(axis=1), 1)
    ]
    return scores


def refused(*arguments: object) -> str:
    result = CliRunner().invoke(main.app, [*map(str, arguments)], env={"COLUMNS": "1000"})
    assert result.exit_code == 1, result.output
    return result.output


def test_a_kept_network_predicts_with_the_backbone_of_its_study(tmp_path: Path) -> None:
    """And with no other, nor by another study, nor where the file does not say of which study it is."""
    federation = of_arrays(tmp_path, FROZEN)
    post = Post(federation)
    weights, (session,) = learned(federation, post), post.sessions
    post.ask(0, Envelope(Channel.END, session, packed([weights])))
    folder, out = federation.folders[0], tmp_path / "out.csv"
    for name in ("model.npz", "personal.npz"):
        scores = predicted(folder / name, folder / "samples.npz", out)
        assert np.array_equal(scores, scored(federation, model(folder, name)))
    kept_before = sorted((folder / samples.FEATURES).iterdir())
    rows = np.load(folder / "samples.npz")
    X, y = rows["X"][:3], rows["y"][:3].astype(str)
    np.savez(tmp_path / "unlabelled.npz", X=X)
    assert len(predicted(folder / "model.npz", tmp_path / "unlabelled.npz", out)) == 3
    assert sorted((folder / samples.FEATURES).iterdir()) == kept_before  # rows to predict are kept nowhere
    np.savez(tmp_path / "more.npz", X=X, y=y)
    command = ["evaluate", str(folder / "model.npz"), str(tmp_path / "more.npz")]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("study.toml", "net.onnx"):
        (elsewhere / name).write_bytes((folder / name).read_bytes())
    result = CliRunner().invoke(main.app, [*command, "--study", str(elsewhere / "study.toml")])
    assert result.exit_code == 0, result.output
    right = np.mean(scored(federation, model(folder))[:3].argmax(axis=1) == y.astype(int))
    assert f"accuracy                      {right:.3f}" in result.output
    for given in (folder / "model.npz", tmp_path / "more.npz"):
        before = given.read_bytes()
        said = refused("predict", folder / "model.npz", tmp_path / "more.npz", "--out", given)
        assert "got the model or the rows to predict" in said
        assert given.read_bytes() == before
    assert "of labels" in refused("evaluate", folder / "model.npz", tmp_path / "unlabelled.npz")
    (elsewhere / "net.onnx").write_bytes(onnx(WEIGHTS + np.float32(1e-3)))
    assert "expected weights with the SHA-256" in refused(*command, "--study", elsewhere / "study.toml")
    (elsewhere / "net.onnx").unlink()
    assert "expected the backbone" in refused(*command, "--study", elsewhere / "study.toml")
    other = (folder / "study.toml").read_text().replace(SHA, "0" * 64)
    (elsewhere / "study.toml").write_text(other)
    assert "got one of a study with digest" in refused(*command, "--study", elsewhere / "study.toml")
    np.savez(folder / "model.npz", *model(folder))
    assert "got one of a version that noted no study" in refused(*command)
    head, study = model(folder)[0], np.array(federation.terms()[1].digest.hex())
    for bad in (np.full_like(head, np.nan), head.astype(np.float32), head.astype(np.str_)):
        np.savez(folder / "model.npz", bad, study=study)
        assert "expected finite weights of float64" in refused(*command)
    np.savez(folder / "model.npz", head, study=study)
    np.savez(tmp_path / "none.npz", X=X[:0], y=y[:0])
    assert "the file has none" in refused("evaluate", folder / "model.npz", tmp_path / "none.npz")
    result = CliRunner().invoke(
        main.app, ["predict", str(folder / "model.npz"), str(tmp_path / "none.npz"), "--out", str(out)]
    )
    assert "0 rows predicted" in result.output
    assert out.read_text() == "row,y,score of 0,score of 1\n"
    (folder / "model.npz").write_bytes(b"PK")
    assert "model.npz: expected weights" in refused(*command)


def test_a_backbone_is_part_of_what_parties_agree_on() -> None:
    study = parse('backend = "mask"' + FROZEN)
    other = parse('backend = "mask"' + FROZEN.replace(SHA, "0" * 64))
    assert study.digest != other.digest
    assert study.agreement != other.agreement
    # Studies from before there were backbones keep their digests, and so their approvals.
    assert (
        parse('backend = "mask"' + DEEP).digest.hex()
        == "9e5a3e33ae27c179252afaf0725ebeebfb1b6b0894f52c552ca548a3b7abf9eb"
    )


def test_an_operator_reads_what_a_backbone_could_do_before_approving_it(tmp_path: Path) -> None:
    """It can be any function of a sample, so its author could make one sample stand alone in the opened sum."""
    federation = of_arrays(tmp_path, FROZEN)
    (said,) = (one.lines for one in sections(*federation.terms()) if one.title == "What is learned")
    (warning,) = (line for line in said if "can single out one sample" in line)
    assert SHA in warning
    assert "The samples of a site's file of arrays." in said


def test_another_network_than_the_agreed_one_gives_nothing(tmp_path: Path) -> None:
    """Found before a session, and in one before the ledger notes that the data set was used."""
    federation = of_arrays(tmp_path, FROZEN)
    assert finding(federation.folders[1]) == (False, "13 rows of 'samples' fit the study")
    (federation.folders[1] / "net.onnx").write_bytes(onnx(WEIGHTS + np.float32(1e-3)))
    fault, said = finding(federation.folders[1])
    assert fault
    assert f"net.onnx: expected weights with the SHA-256 {SHA}, got" in said
    post = Post(federation)
    with pytest.warns(DropoutWarning, match="without site-1"):
        learned(federation, post)
    assert any("expected weights with the SHA-256" in str(one) for one in post.refusals)
    _, identity = read_key(federation.folders[1] / "identity.key", bytes)
    with snapshot(federation.folders[1] / "state.db", identity) as store:
        assert store.ledger.used("samples") is None
    (federation.folders[1] / "net.onnx").unlink()
    said = finding(federation.folders[1])[1]
    assert (
        f"expected the backbone that the study names, got no file: put the one with the SHA-256 {SHA} there"
        in said
    )


def test_a_networks_weights_in_another_file_are_refused(tmp_path: Path) -> None:
    """The digest would not cover them: weights.bin could be changed by whoever can write in the folder."""
    content = onnx(WEIGHTS, "weights.bin")
    study = FROZEN.replace(SHA, hashlib.sha256(content).hexdigest())
    federation = of_arrays(tmp_path, study, content)
    WEIGHTS.tofile(federation.folders[0] / "weights.bin")
    assert "expected a network as an ONNX file" in finding(federation.folders[0])[1]


def test_a_network_of_other_shapes_than_the_study_says_is_refused(tmp_path: Path) -> None:
    federation = of_arrays(tmp_path, FROZEN.replace("input_shape = [5]", "input_shape = [6]"))
    assert (
        "expected a network from samples of shape (12,) to 6 features, got one from (12,) to 5"
        in (finding(federation.folders[0])[1])
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (('"net.onnx"', '"../net.onnx"'), "the name of an .onnx file in each site's folder"),
        (('"net.onnx"', '"net.pt"'), "the name of an .onnx file"),
        ((SHA, SHA[:-1]), "64 digits 0 to f"),
        ((SHA, SHA.upper()), "64 digits 0 to f"),
        (("input_shape = [12]", "input_shape = []"), "sides of at least 1"),
        (("limit = 4.0", "limit = nan"), "a limit above 0"),
        (("limit = 4.0", "limit = 0.0"), "a limit above 0"),
        (("scale = 255.0", "scale = inf"), "a scale above 0"),
        (('label = "y"', 'label = "y"\nfeatures = ["a", "b"]'), "expected 12 features"),
        (("[fedacnnl]\ninput_shape = [5]\nlayers = []\nscale = 255.0", "[ridge]"), "fedacnnl"),
    ],
)
def test_what_a_study_says_of_a_backbone_is_checked(change: tuple[str, str], said: str) -> None:
    with pytest.raises(FileError, match=said):
        parse('backend = "mask"' + FROZEN.replace(*change))


def test_a_file_of_arrays_gives_the_vector_of_its_rows_in_pieces(tmp_path: Path) -> None:
    """The same bits as all rows at once, with samples in memory as they are in their file."""
    federation, draws = of_arrays(tmp_path, ARRAYS), np.random.default_rng(2)
    X, y = draws.integers(0, 256, (1234, 3, 4), dtype=np.uint8), draws.integers(0, 2, 1234)
    np.savez(federation.folders[0] / "samples.npz", X=X.reshape(1234, 12), y=y.astype(str))
    study = federation.terms()[1]
    rows = Folder(federation.folders[0]).data(study)
    assert rows.X.dtype == np.uint8
    assert isinstance(study, NetworkStudy)
    whole = study.estimator().vector(X.reshape(1234, -1) / 255.0, y.astype(str), "a")
    assert np.array_equal(study.vector(0, rows, "a"), whole)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"X": np.zeros((3, 12))}, "expected the arrays 'X' of samples and 'y' of labels, got X"),
        (
            {"X": np.zeros((3, 11)), "y": np.zeros(3, int)},
            r"numbers of shape \(rows, 12\), got float64 of shape",
        ),
        ({"X": np.zeros((3, 12), complex), "y": np.zeros(3, int)}, "got complex128"),
        ({"X": np.full((3, 12), 256.0), "y": np.zeros(3, int)}, "row 1: expected numbers from -255 to 255"),
        ({"X": np.full((3, 12), np.nan), "y": np.zeros(3, int)}, "row 1: expected numbers from"),
        ({"X": np.zeros((3, 12)), "y": np.zeros(4, int)}, "'y' as 3 texts or whole numbers"),
        ({"X": np.zeros((3, 12)), "y": np.zeros(3)}, "got float64"),
        (
            {"X": np.zeros((3, 12)), "y": np.array([0, 1, 7])},
            r"'y', row 3: expected one of '0', '1' \(1 such",
        ),
        ({"X": np.array([{}] * 3), "y": np.zeros(3, int)}, "with numbers and texts"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray], said: str) -> None:
    """One that would run code when it is read among them."""
    federation = of_arrays(tmp_path, ARRAYS)
    np.savez(federation.folders[0] / "samples.npz", allow_pickle=True, **arrays)
    with pytest.raises(FileError, match=said):
        Folder(federation.folders[0]).data(federation.terms()[1])


def test_what_is_no_file_of_arrays_is_refused(tmp_path: Path) -> None:
    federation = of_arrays(tmp_path, ARRAYS)
    folder, study = federation.folders[0], federation.terms()[1]
    for content in (b"", b"no arrays", (folder / "samples.npz").read_bytes()[:-30]):
        (folder / "samples.npz").write_bytes(content)
        with pytest.raises(FileError, match=r"samples\.npz: (expected|cannot be read)"):
            Folder(folder).data(study)
    (folder / "data.toml").write_text('table = "rows.csv"\nname = "samples"\n')
    with pytest.raises(FileError, match=r"rows\.csv: expected a \.npz file, as the study names no features"):
        Folder(folder).data(study)
