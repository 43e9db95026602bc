"""One party of four with a fault: its node says what is wrong, the server names it, and the model is that of the others.

The whole table of faults is in docs/deployment.md.
"""

import datetime
import re
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from worlds.folders import RIDGE, Federation, in_process, model

pytest.importorskip("flwr", reason="FLOWER IS NOT INSTALLED: runs over it are not tested here")

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from worlds.grids import LocalGrid, answering, without_an_engine

from secure_afl.errors import DropoutWarning
from secure_afl.federation import certificates
from secure_afl.node import flower_app
from secure_afl.node.site import Folder
from secure_afl.protocol.audit.chain import read
from secure_afl.protocol.audit.events import Sent
from secure_afl.protocol.durable.store import Store
from secure_afl.protocol.files import keys, policy
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.transport.flower.fleet import Fleet, FleetError


def other_identity(folder: Path) -> None:
    (folder / "identity.key").unlink()
    (folder / "audit.jsonl").unlink()
    keys.write_key(folder, "identity")


def mistyped_key(folder: Path) -> None:
    text = (folder / "roster.toml").read_text()
    at = text.index('verify_key = "') + len('verify_key = "')
    (folder / "roster.toml").write_text(text[:at] + text[at + 1 :])


def other_study(folder: Path) -> None:
    """One bound differs, and with it what the entries of the sum mean; all else that travels is the same."""
    (folder / "study.toml").write_text(f'backend = "mask"\n{RIDGE.replace("1000.0", "1100.0")}')
    Folder(folder).approve("an operator", "a test")


def forbidden_backend(folder: Path) -> None:
    (folder / "policy.toml").write_text(policy.text(Policy(backends=frozenset({"bfv"}))))


def spent(folder: Path) -> None:
    _, identity = keys.read_key(folder / "identity.key", keys.service_passphrase)
    store = Store(folder / "state.db", identity)
    store.ledger.use("rows", b"s" * 32)
    store.close()


def not_approved(folder: Path) -> None:
    Folder(folder).revoke("an operator", "a test")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (other_identity, "is unknown: expected the key of one of the roster's 4 members"),
        (mistyped_key, r"roster\.toml: .*verify_key"),
        (other_study, "the server asks for study [0-9a-f]{16}…, and site-0 has study"),
        (forbidden_backend, "does not allow|not allowed"),
        (spent, "'rows' was used in session"),
        (not_approved, "is not approved at site-0: read `secure-afl study show`"),
    ],
)
def test_a_party_with_a_fault_is_left_out_and_everybody_knows_why(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    harm: Callable[[Path], None],
    said: str,
) -> None:
    without_an_engine(monkeypatch)
    federation = Federation(tmp_path)
    folder = federation.folders[0]
    harm(folder)
    with pytest.warns(DropoutWarning, match="site-0"):
        report = flower_app.serve(LocalGrid(4, answering(federation)), federation.server, 5.0, 0.01)
    refused = [one.getMessage() for one in caplog.records if one.getMessage().startswith("refused:")]
    assert any(re.search(said, one) for one in refused), refused
    assert any(re.match("site-0|node 100", one) for one in report["silences"])
    assert np.array_equal(model(federation.server)[0], in_process(federation, [1, 2, 3]))
    if (log := folder / "audit.jsonl").exists():
        sent = [one.event for one in read(log.read_bytes()).entries if isinstance(one.event, Sent)]
        assert not any(one.frame.message == "upload" for one in sent)


@pytest.mark.slow
def test_a_party_with_another_roster_is_found_out_by_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One name lacks a letter: all keys are right, but the digest that the party signs differs."""
    without_an_engine(monkeypatch)
    federation = Federation(tmp_path)
    text = (federation.folders[0] / "roster.toml").read_text()
    assert text.count("site-3") == 1
    (federation.folders[0] / "roster.toml").write_text(text.replace("site-3", "site-"))
    with pytest.warns(DropoutWarning, match="site-0"):
        report = flower_app.serve(LocalGrid(4, answering(federation)), federation.server, 5.0, 0.01)
    assert "expected an address signed by site-0 under this roster" in report["silences"][0]
    assert np.array_equal(model(federation.server)[0], in_process(federation, [1, 2, 3]))


def test_an_expired_certificate_lets_no_node_in_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=40)
    # In that module alone: cryptography keeps the class `datetime` that it first sees.
    clock = SimpleNamespace(
        datetime=SimpleNamespace(now=lambda zone: past), UTC=datetime.UTC, timedelta=datetime.timedelta
    )
    with monkeypatch.context() as then:
        then.setattr(certificates, "datetime", clock)
        authority = certificates.Authority.make("an authority", 30)
        certificate, key = authority.server("127.0.0.1", 30)
    ends = x509.load_pem_x509_certificate(certificate).not_valid_after_utc
    assert ends < datetime.datetime.now(datetime.UTC)
    (tmp_path / "server.crt").write_bytes(certificate)
    (tmp_path / "server.key").write_bytes(key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.crt", tmp_path / "server.key")
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with suppress(OSError):
                plain, _ = listening.accept()
                with plain, suppress(OSError):
                    context.wrap_socket(plain, server_side=True).close()

        serving = threading.Thread(target=serve, daemon=True)
        serving.start()
        fleet = Fleet(
            f"127.0.0.1:{listening.getsockname()[1]}", authority.pem, ec.generate_private_key(ec.SECP384R1())
        )
        with pytest.raises(
            FleetError,
            match=r"not for this name or day \(certificate .*\): compare that file, and this machine",
        ):
            fleet.activate(30.0)
        fleet.close()
        serving.join()
