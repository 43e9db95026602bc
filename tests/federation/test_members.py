"""Members that come, go and get other keys: each is a new edition of the roster, and none an old session's."""

import ssl
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner
from worlds.founded import NAMES, Founded, project

from secure_afl.federation import coordinator, party
from secure_afl.federation.certificates import Authority
from secure_afl.federation.papers import Edition
from secure_afl.federation.project import slug
from secure_afl.node.site import Folder
from secure_afl.protocol.durable.store import Kept, Store
from secure_afl.protocol.files import keys
from secure_afl.protocol.session.errors import FileError
from secure_afl.simulations.cli.main import app


@pytest.fixture
def world(tmp_path: Path) -> Founded:
    """All have accepted and approved the first roster."""
    made = Founded(tmp_path)
    accepted(made, made.roster(), *NAMES)
    return made


def accepted(world: Founded, edition: Edition, *names: str) -> None:
    for name in names:
        party.accept(world.folders[name], world.file(edition))
        Folder(world.folders[name]).approve("an operator", "a test")


def approved(world: Founded, name: str) -> bool:
    """With the roster that is there."""
    folder = Folder(world.folders[name])
    found, rosters = folder.approval(), folder.terms()[0].parties.rosters().values()
    return found is not None and found.rosters == tuple(one.digest for one in rosters)


def nodes(world: Founded) -> set[str]:
    return {path.stem for path in (world.office / "server" / "nodes").iterdir()}


def under_way(folder: Path, *, server: bool = False) -> None:
    _, identity = keys.read_key(folder / "identity.key", keys.service_passphrase, server=server)
    with closing(Store(folder / "state.db", identity)) as store:
        store.keep("masked 00", Kept(b"", b"", b""))


def test_a_party_is_added(world: Founded) -> None:
    (world.office / "project.toml").write_text(project(*NAMES, "D"))
    kits, taken = coordinator.follow(world.office, "D comes")
    assert [kit.name for kit in kits] == ["d.zip"]
    assert (taken.missing, taken.edition) == (("D",), None)
    world.join("D")
    edition = coordinator.take_in(world.office, [world.answers["D"]], "D comes").edition
    assert edition is not None
    assert (edition.number, edition.why) == (2, "D comes")
    for name in (*NAMES, "D"):
        party.accept(world.folders[name], world.file(edition))
        assert not approved(world, name)  # of the roster before
    accepted(world, edition, *NAMES, "D")
    assert all(approved(world, name) for name in (*NAMES, "D"))
    assert nodes(world) == {slug(name) for name in (*NAMES, "D")}


def test_a_party_is_removed_and_its_node_shut_out(world: Founded) -> None:
    (world.office / "project.toml").write_text(project(*NAMES[:2]))
    _, taken = coordinator.follow(world.office, "C left")
    edition = taken.edition
    assert edition is not None
    assert [name for name, _ in edition.clients] == sorted(NAMES[:2])
    accepted(world, edition, *NAMES[:2])
    with pytest.raises(FileError, match="C with its present key is not in this roster"):
        party.accept(world.folders["C"], world.file(edition))
    assert nodes(world) == {slug(name) for name in NAMES[:2]}
    server, first = Folder(world.office / "server").terms()[0], Folder(world.folders[NAMES[0]]).terms()[0]
    assert server.parties == first.parties


def test_a_partys_new_keys_take_the_old_ones_place_only_if_the_coordinator_says_so(world: Founded) -> None:
    before = {name: answer.read_bytes() for name, answer in world.answers.items()}
    world.join("C", "c-again")
    with pytest.raises(FileError, match="answered before, with other keys"):
        coordinator.take_in(world.office, [world.answers["C"]])
    edition = coordinator.take_in(world.office, [world.answers["C"]], "C lost its key", replace=True).edition
    assert edition is not None
    assert edition.number == 2
    accepted(world, edition, *NAMES)
    assert world.answers["C"].read_bytes() != before["C"]
    assert dict(edition.clients)[NAMES[0]] == dict(world.roster().clients)[NAMES[0]]


def test_no_roster_changes_under_a_session(world: Founded) -> None:
    """The session is of the roster of its beginning; one that is changed in the middle would be refused by all."""
    (world.office / "project.toml").write_text(project(*NAMES[:2]))
    under_way(world.office / "server", server=True)
    with pytest.raises(FileError, match="no session under way"):
        coordinator.follow(world.office, "C left")
    assert slug("C") in nodes(world)
    (world.office / "server" / "state.db").unlink()
    edition = coordinator.follow(world.office, "C left")[1].edition
    assert edition is not None
    under_way(world.folders[NAMES[0]])
    with pytest.raises(FileError, match="no session under way"):
        party.accept(world.folders[NAMES[0]], world.file(edition))
    assert approved(world, NAMES[0])


def test_the_commands(world: Founded) -> None:
    (world.office / "project.toml").write_text(project(*NAMES[:2]))
    words = ["members", "update", str(world.office), "--reason", "C left"]
    done = CliRunner().invoke(app, words, env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    assert "2, C left" in " ".join(done.output.split())


def test_a_new_certificate_is_of_the_same_authority(world: Founded) -> None:
    """So parties have nothing to do."""
    server = world.office / "server"
    before = (server / "server.crt").read_bytes()
    coordinator.certify(world.office)
    assert (server / "server.crt").read_bytes() != before
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(server / "server.crt", server / "server.key")
    authority = Authority.of_pem(
        (world.office / "authority.key").read_bytes(), (world.office / "ca.crt").read_bytes()
    )
    from cryptography import x509

    made = x509.load_pem_x509_certificate((server / "server.crt").read_bytes())
    made.verify_directly_issued_by(authority.certificate)


def test_a_server_that_runs_shows_a_new_certificate_and_keeps_the_old_one_if_that_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("flwr", reason="FLOWER IS NOT INSTALLED: no SuperLink is tested here")
    from worlds.patience import until
    from worlds.superlinks import superlink

    from secure_afl.protocol.transport.flower import superlink as at_the_link
    from secure_afl.protocol.transport.flower.superlink import Link

    looks, changed = list[Link](), at_the_link._changed

    def look(link: Link) -> tuple[int, ...]:
        looks.append(link)
        return changed(link)

    monkeypatch.setattr(at_the_link, "_changed", look)
    with superlink(tmp_path) as here:
        address = (here.link.public[0], here.link.public[1])

        def shown() -> str:
            return ssl.get_server_certificate(address)

        def await_other(than: str) -> str:
            until(lambda: shown() != than)
            return shown()

        first = shown()
        here.link.certificate.write_bytes(b"damaged")
        authority = Authority.make("another", 9)
        seen = len(looks)
        until(lambda: len(looks) > seen + 2)  # more of them change nothing
        assert shown() == first
        certificate, key = authority.server("localhost", 9)
        here.link.key.unlink()
        here.link.key.write_bytes(key)
        here.link.certificate.write_bytes(certificate)
        assert await_other(first).split() == certificate.decode().split()
