"""A party whose `state.db` knows less than its audit log answers nothing: an old copy was brought back, or another begun."""

from pathlib import Path

import pytest
from typer.testing import CliRunner
from worlds.folders import Federation, Post, learned

from secure_afl.crypto.errors import SecureAflError
from secure_afl.node.preflight import looked_at
from secure_afl.node.site import AUDIT, Folder
from secure_afl.protocol.audit.check import verify
from secure_afl.protocol.durable.store import StoreError
from secure_afl.protocol.transport.post import Channel, Envelope
from secure_afl.simulations.cli.main import app


class Copying(Post):
    """Keeps a copy of the first party's file after each message."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.copies: list[bytes] = []

    def ask(self, party: int, envelope: Envelope, address: int = 0) -> bytes:
        answer = super().ask(party, envelope, address)
        if party == 0:
            self.copies.append((self.federation.folders[0] / "state.db").read_bytes())
        return answer


def copied(federation: Federation) -> Copying:
    post = Copying(federation)
    learned(federation, post)
    return post


def asked(federation: Federation, post: Post) -> bytes:
    """The invitation of the session, once more."""
    (session,) = post.sessions
    return post.ask(0, Envelope(Channel.MASKED, session, post.invitation))


@pytest.mark.parametrize("backend", ["mask", "bfv+mask"])
def test_a_copy_of_any_earlier_moment_is_refused(tmp_path: Path, backend: str) -> None:
    """The weak design does not look at the log, and repeats or contradicts what it said before."""
    if backend != "mask":
        pytest.importorskip("tenseal", reason="TENSEAL IS NOT INSTALLED: encrypted sums are not tested here")
    federation = Federation(tmp_path, holders=backend != "mask", backend=backend)
    post = copied(federation)
    at = federation.folders[0] / "state.db"
    refused = [at.write_bytes(copy) and refuses(federation, post) for copy in post.copies]
    assert refused[:-1] == [True] * (len(refused) - 1)
    assert not refused[-1]  # the newest


def refuses(federation: Federation, post: Post) -> bool:
    """As an old copy; the newest file refuses the invitation for its state."""
    with pytest.raises(SecureAflError) as error:
        asked(federation, post)
    return "an old copy was brought back" in str(error.value)


def test_a_file_that_was_lost_is_begun_anew_by_its_operator_only(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    post = copied(federation)
    folder = federation.folders[0]
    (folder / "state.db").unlink()
    faults = {one.what: one.said for one in looked_at(folder) if one.fault}
    assert "found none: bring it back" in faults["sessions"]
    with pytest.raises(StoreError, match="begin-anew"):
        asked(federation, post)
    words = ["ledger", "begin-anew", str(folder), "--by", "Dr Noor", "--reason", "a disk failed"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "sessions" not in {one.what for one in looked_at(folder) if one.fault}
    with pytest.raises(Exception, match="replay is refused"):  # of the session before
        asked(federation, post)
    (folder / "data.toml").write_text('table = "rows.csv"\nname = "other rows"\n')
    for other in federation.folders[1:]:
        (other / "data.toml").write_text('table = "rows.csv"\nname = "other rows"\n')
    learned(federation, Post(federation))  # the next session has all four
    notes = verify({"log": (folder / AUDIT).read_bytes()}).notes
    assert any("began the ledger of site-0 anew" in note.text for note in notes)


def test_a_renewed_data_set_is_no_old_copy(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    copied(federation)
    folder = federation.folders[0]
    words = ["ledger", "renew", str(folder), "rows", "--may-expose-this-data-set"]
    Folder(folder).give_up()
    assert CliRunner().invoke(app, words).exit_code == 0
    assert "sessions" not in {one.what for one in looked_at(folder) if one.fault}
