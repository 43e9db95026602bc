"""Who reaches a port, and who may submit a run, must not run code at a party.

Each attack succeeds on Flower's own SuperLink and SuperNodes and fails on ours: real processes with TLS and node keys on
loopback.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

pytest.importorskip("flwr", reason="FLOWER IS NOT INSTALLED: strangers are not tested here")

from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto.control_pb2 import RegisterNodeRequest
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.runtime import RuntimeHttpClient
from worlds.folders import Federation
from worlds.patience import HANG, until
from worlds.superlinks import taken_task

from secure_afl.protocol.audit.chain import read
from secure_afl.protocol.audit.events import Foreign
from secure_afl.simulations.network.loopback import QUIET, Loopback

pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("ignore:GitWildMatchPattern")]
HOSTILE = Path(__file__).resolve().parents[2] / "worlds" / "hostile"
KINDS = {"query.files", "query.shell", "query.secure_afl", "train", "evaluate"}


class World:
    """A federation of two on a network, and what a stranger has: the authority's certificate and an address."""

    def __init__(self, home: Path, network: Loopback, federation: Federation) -> None:
        self.home, self.network, self.federation = home, network, federation
        self.authority = network.home / "authority.crt"

    @property
    def at(self) -> tuple[str, bool, bytes]:
        """Where a stranger connects."""
        return self.network.public, False, self.authority.read_bytes()

    def loot(self, name: str) -> list[dict[str, object]]:
        file = self.home / f"{name}.json"
        found: list[dict[str, object]] = json.loads(file.read_text()) if file.exists() else []
        return found

    def settings(self, name: str) -> str:
        return f'loot="{self.home / name}.json" nodes=2 seconds={HANG}'


def world(home: Path, *, stock: bool) -> Iterator[World]:
    federation = Federation(home / "parties", 2)
    with Loopback(home / "network", federation.folders, federation.server, stock=stock) as network:
        yield World(home, network, federation)


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    yield from world(tmp_path_factory.mktemp("stock"), stock=True)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    yield from world(tmp_path_factory.mktemp("ours"), stock=False)


def stolen(loot: list[dict[str, object]], federation: Federation) -> list[str]:
    """Which secrets of the parties are in it."""
    text = json.dumps(loot)
    secrets = [
        (folder / name).read_text() for folder in federation.folders for name in ("identity.key", "rows.csv")
    ]
    return [one for one in secrets if json.dumps(one)[1:-1] in text]


# ---- somebody who may submit a run ---------------------------------------------------------------


@pytest.mark.long
def test_stock_nodes_run_whatever_is_submitted(stock: World) -> None:
    stock.network.submit(HOSTILE, stock.settings("insider"), limit=HANG)
    loot = stock.loot("insider")
    assert len(stolen(loot, stock.federation)) == 4
    assert "uid=" in json.dumps(loot)
    assert '"answered by": "shipped code"' in json.dumps(loot)


def test_our_nodes_run_nothing_and_note_who_tried(ours: World) -> None:
    ours.network.submit(HOSTILE, ours.settings("insider"), limit=HANG)
    loot = ours.loot("insider")
    assert [one["kind"] for one in loot if "error" not in one] == ["query.secure_afl"] * 2
    assert {str(one["kind"]) for one in loot} == KINDS
    assert {one.get("error", "1000 refused") for one in loot} == {"1000 refused"}
    assert all(one["about"] == {"version": "secure-afl/2"} for one in loot if "error" not in one)  # a refusal
    assert stolen(loot, ours.federation) == []
    assert "uid=" not in json.dumps(loot)
    for folder in ours.federation.folders:
        events = [entry.event for entry in read((folder / "audit.jsonl").read_bytes()).entries]
        noted = [event for event in events if isinstance(event, Foreign)]
        assert {event.kind for event in noted} == KINDS - {"query.secure_afl"}
        assert len({event.app for event in noted}) == 1
    # Nothing that was shipped is on the disk of a party.
    shipped = (HOSTILE / "hostile" / "client_app.py").read_bytes()
    for folder in ours.federation.folders:
        assert not [path for path in folder.rglob("*") if path.is_file() and shipped in path.read_bytes()]


# ---- strangers, who have the authority's certificate and reach the nodes' port ---------------------


def submitted(world: World) -> subprocess.CompletedProcess[str]:
    """What `flwr run` says to somebody with a fresh home."""
    home = world.home / "stranger"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "it"\n[superlink.it]\naddress = "{world.network.public}"\n'
        f'root-certificates = "{world.authority}"\n'
    )
    flwr = str(Path(sys.executable).parent / "flwr")
    return subprocess.run(
        [flwr, "run", str(HOSTILE), "it", "--stream", "--run-config", world.settings("stranger")],
        env={**os.environ, **QUIET, "FLWR_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
        timeout=HANG,
    )


def test_a_stranger_submits_an_app_to_a_stock_superlink(stock: World) -> None:
    assert submitted(stock).returncode == 0
    assert len(stolen(stock.loot("stranger"), stock.federation)) == 4


def test_a_stranger_cannot_submit_an_app_to_ours(ours: World) -> None:
    done = submitted(ours)
    assert done.returncode != 0
    assert "404" in done.stdout + done.stderr
    assert ours.loot("stranger") == []


def registered(world: World) -> int:
    """The number of a node that a stranger registers."""
    key = public_key_to_bytes(ec.generate_private_key(ec.SECP384R1()).public_key())
    with ControlHttpClient.from_server_address(*world.at, []) as control:
        return int(control.RegisterNode(RegisterNodeRequest(public_key=key)).node_id)


def test_a_stranger_registers_a_node_at_a_stock_superlink(stock: World) -> None:
    assert registered(stock)


def test_a_stranger_cannot_register_a_node_at_ours(ours: World) -> None:
    with pytest.raises(httpx.HTTPStatusError, match="404"):
        registered(ours)


def test_a_stranger_starts_a_run_and_takes_its_task_at_a_stock_superlink(stock: World) -> None:
    """With its token it sends messages to every node in a ServerApp's place, and reads what they say."""
    grid, _ = taken_task(stock.network.public, stock.authority.read_bytes())
    try:
        until(lambda: len(list(grid.get_node_ids())) == 2)  # nodes register by and by
    finally:
        grid.close()


@pytest.mark.long
def test_a_stranger_cannot_start_a_run_or_take_a_task_at_ours(ours: World) -> None:
    with pytest.raises(httpx.HTTPStatusError, match="404"):
        taken_task(ours.network.public, ours.authority.read_bytes())
    with (  # nor one that is there
        RuntimeHttpClient.from_server_address(*ours.at, []) as runtime,
        pytest.raises(httpx.HTTPStatusError, match="404"),
    ):
        runtime.AcquireTask(AcquireTaskRequest(supported_task_types=["flwr-serverapp"]))
