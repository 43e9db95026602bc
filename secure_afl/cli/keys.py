"""The command line of identities and rosters: `secure-afl keys`."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from secure_afl.cli.terminal import refusals_shown, say_what
from secure_afl.protocol.files import keys as key_file
from secure_afl.protocol.files import roster as roster_file
from secure_afl.protocol.files import whole
from secure_afl.protocol.files.keys import KIND, PASSPHRASE_FILE, service_passphrase
from secure_afl.protocol.files.roster import Parties
from secure_afl.protocol.session.errors import FileError, LocalProtocolError
from secure_afl.protocol.session.roster import Member, Roster, grouped

keys = typer.Typer(help="Identities of clients and key holders, and the roster of all.", no_args_is_help=True)


@keys.command("new")
def new_command(
    name: Annotated[str, typer.Argument(help="This party's name, which all others see: 'Hospital A'.")],
    out: Annotated[
        Path, typer.Option(help="The folder to write into.", file_okay=False, exists=True)
    ] = Path(),
    encrypt: Annotated[
        bool,
        typer.Option(
            "--passphrase",
            help=f"Encrypt the secret key. Asks at the terminal, or reads the file that {PASSPHRASE_FILE} names.",
        ),
    ] = False,
    server: Annotated[
        bool,
        typer.Option(
            "--server",
            help="Make a server's key, for its audit log and open sessions. Rosters, clients and key holders refuse it.",
        ),
    ] = False,
) -> None:
    """Make an identity: NAME.key, secret, and NAME.pub, for the others. Never overwrites one."""
    with refusals_shown():
        word = ask_passphrase(new=True) if encrypt else None
        member, secret, public = key_file.write_key(out, name, word, server=server)
        say_what(
            "secret",
            f"{secret}: stays here{'' if encrypt else ', not encrypted'}; only its owner can read it",
        )
        say_what(
            "public",
            f"{public}: for who checks this server's audit log; it belongs in no roster"
            if server
            else f"{public}: send it to whoever makes the roster",
        )
        _show_member(member)


@keys.command("show")
def show_command(
    file: Annotated[
        Path,
        typer.Argument(help="A public key file, a secret one (which is opened to check it), or a roster."),
    ],
) -> None:
    """Name, public key and fingerprint; of a roster all of them. Never a secret."""
    with refusals_shown():
        server = key_file.is_server(file)
        if key_file.is_secret(file):
            _show_member(key_file.read_key(file, ask_passphrase, server=server)[0])
        elif server or whole.read_text(file).startswith(KIND):
            _show_member(key_file.read_public(file, server=server))
        else:
            _show_parties(roster_file.read(file))


@keys.command("roster")
def roster_command(
    public: Annotated[list[Path], typer.Argument(help="Public key files of the clients.")],
    out: Annotated[Path, typer.Option(help="The roster to write; never over another.", dir_okay=False)],
    key_holder: Annotated[
        list[Path] | None, typer.Option(help="Public key file of a key holder; can be given several times.")
    ] = None,
) -> None:
    """Make the roster that every party must have: sorted by name, so the same files give the same roster."""
    with refusals_shown():
        clients, holders = (_sorted(paths) for paths in (public, key_holder or []))
        try:
            parties = Parties(Roster(clients), Roster(holders) if holders else None)
        except LocalProtocolError as error:
            raise FileError(str(error)) from None
        whole.write_new(out, roster_file.text(parties).encode(), whole.PUBLIC)
        say_what("roster", f"{out}: give it to every party, then compare the fingerprints by telephone")
        _show_parties(parties)


def ask_passphrase(*, new: bool = False) -> bytes:
    """The first line of the file that `PASSPHRASE_FILE` names, see `service_passphrase`; else what is typed, unseen.

    new: typed twice. Raises `FileError` if there is neither such a file nor a terminal.
    """
    if os.environ.get(PASSPHRASE_FILE):
        return service_passphrase()
    if not _at_terminal():
        raise FileError(
            f"expected a terminal to type the passphrase at, or {PASSPHRASE_FILE} to name a file with it, got neither"
        )
    return os.fsencode(typer.prompt("Passphrase", hide_input=True, confirmation_prompt=new, err=True))


def _at_terminal() -> bool:
    return sys.stdin.isatty()


def _sorted(paths: list[Path]) -> tuple[Member, ...]:
    return tuple(sorted(map(key_file.read_public, paths), key=lambda member: member.name))


def _show_member(member: Member) -> None:
    alone = Roster((member,))  # binds the name to the key
    say_what("name", member.name)
    say_what("public key", member.verify_key.hex())
    say_what("fingerprint", f"{alone.short_fingerprint} (short)")
    say_what("", alone.fingerprint)


def _show_parties(parties: Parties) -> None:
    for role, roster in parties.rosters().items():
        say_what(role, str(len(roster.members)))
        for place, member in enumerate(roster.members):
            say_what("", f"{place:>3}  {grouped(member.verify_key[:8])}…  {member.name}")
        say_what("fingerprint", f"{roster.short_fingerprint} (short)")
        say_what("", roster.fingerprint)
