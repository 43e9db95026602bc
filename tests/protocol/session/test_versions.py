"""Parties of two versions that meet refuse each other and name both, whatever else their messages have."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from worlds.cohorts import world
from worlds.encrypted import KeyWorld

from secure_afl.crypto.identity import Identity
from secure_afl.protocol.audit.events import Role
from secure_afl.protocol.audit.log import AuditLog
from secure_afl.protocol.session.errors import AuditError, RemoteProtocolError
from secure_afl.protocol.session.wire import VERSION, WireError, check_version


def first_messages() -> dict[str, tuple[Any, bytes]]:
    """A fresh party of each kind, and what it is sent first."""
    here, keys = world(4), KeyWorld(4)
    masked, encrypted = here.session(here.propose()), keys.session()
    agreement = encrypted.server.start()[4]
    invited = keys.session()
    invited.cohort.run(invited.server.start, invited.contribute)
    for _ in range(2):
        invited.cohort.run(invited.server.advance, invited.contribute)
    invitation = invited.server.advance()[0]
    return {
        "masking client": (here.client(0), masked.server.start()[0]),
        "key holder": (keys.holder(0, encrypted.plan), agreement),
        "client of encrypted sums": (keys.client(0, invited.plan), invitation),
    }


def of_version(data: bytes, version: str) -> bytes:
    """As another version might write it: with a field that this one does not know."""
    fields = msgspec.msgpack.decode(data)
    terms = fields[1] if isinstance(fields[1], list) else fields
    assert terms[1] == VERSION
    terms[1] = version
    terms.append("a field of theirs")
    return msgspec.msgpack.encode(fields)


@pytest.mark.parametrize("kind", ["masking client", "key holder", "client of encrypted sums"])
def test_a_party_says_which_versions_met(kind: str) -> None:
    party, data = first_messages()[kind]
    with pytest.raises(
        RemoteProtocolError, match=r"expected protocol version 'secure-afl/2', got 'secure-afl/3'"
    ):
        party.receive(of_version(data, "secure-afl/3"))
    with pytest.raises(
        RemoteProtocolError, match="not a valid message"
    ):  # its own version, and yet a field more
        party.receive(of_version(data, VERSION))
    party.receive(data)  # nothing changed


@pytest.mark.slow
@given(
    st.recursive(
        st.none() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary(), st.lists, max_leaves=8
    )
)
def test_what_names_no_version_is_left_to_others(value: object) -> None:
    check_version(msgspec.msgpack.encode(value))


@given(st.binary(max_size=60))
def test_what_is_no_message_at_all_is_left_to_others(data: bytes) -> None:
    check_version(data)


def test_a_long_version_is_cut() -> None:
    with pytest.raises(WireError) as refused:
        check_version(msgspec.msgpack.encode(["parameters", "secure-afl/" + "9" * 10_000]))
    assert len(str(refused.value)) < 120


def test_a_log_of_another_version_is_not_continued(tmp_path: Path) -> None:
    identity = Identity.generate()
    AuditLog(tmp_path / "log", identity, "site", Role.CLIENT).close()
    data = (tmp_path / "log").read_bytes()
    (tmp_path / "log").write_bytes(data.replace(b"secure-afl/2", b"secure-afl/0"))
    with pytest.raises(AuditError, match=r"expected version 'secure-afl/2', got 'secure-afl/0'"):
        AuditLog(tmp_path / "log", identity, "site", Role.CLIENT)
