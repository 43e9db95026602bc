"""`secure-afl ledger` as an operator meets it: a renewal after an upload is refused, or said and noted."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner
from worlds.folders import Federation, Post, learned

from secure_afl.node.site import Folder
from secure_afl.protocol.audit.check import verify
from secure_afl.protocol.session.errors import RoundAbortedError
from secure_afl.protocol.session.ledger import session_name
from secure_afl.protocol.transport.post import Channel, Envelope
from secure_afl.simulations.cli.main import app

FORCE = "--may-expose-this-data-set"


def renew(folder: Path, *arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["ledger", "renew", str(folder), *arguments], terminal_width=100)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, re.sub(r"\s+", " ", result.output)


def run_to_its_end(federation: Federation) -> bytes:
    """A whole session; gives its number."""
    post = Post(federation)
    learned(federation, post)
    (session,) = post.sessions
    for party in range(len(federation.folders)):
        post.ask(party, Envelope(Channel.END, session))
    return session


def test_a_renewal_after_an_upload_is_the_owners_word_and_in_the_log(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    session = run_to_its_end(federation)
    site = federation.folders[1]
    log = site / "audit.jsonl"

    before = log.read_bytes()
    code, said = renew(site, "rows")
    assert code == 1
    assert f"a vector of the data set 'rows' left this client in session {session_name(session)}…" in said
    assert FORCE in said
    with pytest.raises(RoundAbortedError):
        learned(federation, Post(federation))
    for folder in federation.folders:
        Folder(folder).give_up()
    assert log.read_bytes().startswith(before)
    assert b'"renewed"' not in log.read_bytes()

    code, said = renew(site, "rowz", FORCE)
    assert code == 1
    assert "expected a data set that was used, got 'rowz': it has 'rows'" in said

    for folder in federation.folders:
        code, said = renew(folder, "rows", FORCE)
        assert code == 0
        assert (
            f"may serve another session than {session_name(session)}, where a vector of it had left" in said
        )
    report = verify({str(log): log.read_bytes()})
    noted = [one.text for one in report.notes if "renewed a data set" in one.text]
    assert noted == [
        f"site-1 renewed a data set of session {session_name(session)} for another session, although a vector of it had left"
    ]
    run_to_its_end(federation)


def test_nothing_is_renewed_while_a_session_is_under_way(tmp_path: Path) -> None:
    """The server has opened the sum, but the parties do not know yet that the session is over."""
    federation = Federation(tmp_path)
    learned(federation, Post(federation))
    code, said = renew(federation.folders[0], "rows", FORCE)
    assert code == 1
    assert "expected no session under way, got masked" in said
    assert CliRunner().invoke(app, ["flower", "give-up", str(federation.folders[0]), "--yes"]).exit_code == 0
    assert renew(federation.folders[0], "rows", FORCE)[0] == 0


def test_a_folder_without_a_ledger_is_said(tmp_path: Path) -> None:
    code, said = renew(Federation(tmp_path).folders[0], "rows")
    assert code == 1
    assert "state.db: expected the file of a party's ledger, found none" in said
