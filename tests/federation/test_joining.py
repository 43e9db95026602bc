"""Parties join by kits, answers and a signed roster; whoever alters or swaps one of the three is found out."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec import structs
from typer.testing import CliRunner
from worlds.folders import RIDGE
from worlds.founded import NAMES, Founded, project

from secure_afl.crypto.identity import Identity
from secure_afl.federation import coordinator, papers, party
from secure_afl.federation.papers import Answer, Edition
from secure_afl.federation.project import parse, slug
from secure_afl.node.site import Folder
from secure_afl.protocol.files import keys, roster
from secure_afl.protocol.session.errors import FileError
from secure_afl.simulations.cli.main import app

PROJECT = project(*NAMES)


@pytest.fixture
def world(tmp_path: Path) -> Founded:
    return Founded(tmp_path)


def test_all_have_one_roster_one_study_and_keys_of_their_own(world: Founded) -> None:
    first = coordinator.take_in(world.office, [world.answers[NAMES[0]]])
    assert (first.missing, first.edition) == (NAMES[1:], None)
    assert not (world.office / "server" / "roster.toml").exists()
    edition = world.roster()
    file = coordinator.edition_file(world.office, 1)
    for folder in world.folders.values():
        party.accept(folder, file)
    everywhere = [world.office / "server", *world.folders.values()]
    assert len({(folder / "roster.toml").read_bytes() for folder in everywhere}) == 1
    assert {Folder(folder).terms()[1].digest for folder in everywhere} == {edition.studies[0][1]}
    assert [member.name for member in edition.parties.everybody] == sorted(NAMES)
    for name, folder in world.folders.items():
        joined = world.joined[name]
        member, _ = keys.read_key(folder / "identity.key", keys.service_passphrase)
        assert member in edition.parties.everybody
        assert joined.fingerprint == papers.fingerprint(member.name, member.verify_key)
        secrets = [folder / "identity.key", folder / "node"]
        assert all(path.stat().st_mode & 0o077 == 0 for path in (*secrets, folder))
        sent = joined.answer.read_bytes()
        assert all(path.read_bytes()[80:200] not in sent for path in secrets)
    assert len(list((world.office / "server" / "nodes").glob("*.pub"))) == len(NAMES)


def test_the_same_answers_make_no_second_roster(world: Founded) -> None:
    assert world.roster() == world.roster()
    assert len(list((world.office / "rosters").iterdir())) == 1


def test_a_kit_has_a_page_for_people_and_nothing_secret(world: Founded) -> None:
    with zipfile.ZipFile(world.kit(NAMES[1])) as archive:
        page = archive.read("README.md").decode()
        said = b"".join(archive.read(name) for name in archive.namelist())
    assert "Klinik Süd" in page
    assert world.joined[NAMES[1]].coordinator in page
    assert b"PRIVATE" not in said
    assert page.count("\n       secure-afl ") == 5  # commands of a party


# ---- what does not get through -------------------------------------------------------------------


def test_nobody_answers_with_a_key_that_is_not_theirs(world: Founded) -> None:
    """The weak design takes the name and the key as they come: a mail that was altered puts another key into the roster."""
    answer = papers.read(world.answers[NAMES[0]], Answer)
    other = Identity.generate()
    for forged in (
        structs.replace(answer, verify_key=other.verify_key),
        structs.replace(answer, node_key=answer.node_key + "x"),
        structs.replace(answer, name=NAMES[1]),
    ):
        with pytest.raises(FileError, match="signed with the key"):
            coordinator.take_in(world.office, [world.file(forged)])


def test_a_second_answer_with_another_key_does_not_replace_the_first(world: Founded) -> None:
    world.roster()
    answer, thief = papers.read(world.answers[NAMES[0]], Answer), Identity.generate()
    other = papers.signed(structs.replace(answer, verify_key=thief.verify_key), thief)
    with pytest.raises(FileError, match="answered before, with other keys"):
        coordinator.take_in(world.office, [world.file(other)])
    assert papers.read(world.office / "answers" / f"{slug(NAMES[0])}.json", Answer) == answer


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda answer: structs.replace(answer, name="Nobody"), "expected the answer of a party"),
        (lambda answer: structs.replace(answer, kit=bytes(32)), "answered another kit"),
        (lambda answer: structs.replace(answer, node_key="ssh-ed25519 AAAA"), "node's public key"),
    ],
)
def test_an_answer_must_fit_its_kit(world: Founded, change: Callable[[Answer], Answer], words: str) -> None:
    _, identity = keys.read_key(world.folders[NAMES[0]] / "identity.key", keys.service_passphrase)
    answer = papers.signed(change(papers.read(world.answers[NAMES[0]], Answer)), identity)
    with pytest.raises(FileError, match=words):
        coordinator.take_in(world.office, [world.file(answer)])


def test_a_kit_that_was_altered_is_refused(world: Founded) -> None:
    kit = papers.read_kit(world.kit(NAMES[0]))
    altered = structs.replace(kit, superlink="evil.example:8000")
    world.kit(NAMES[0]).write_bytes(papers.packed(altered, "page"))
    with pytest.raises(FileError, match="signed with the key"):
        party.join(world.kit(NAMES[0]), world.root / "new", "rows.csv", "rows")
    assert not list((world.root / "new").glob("*"))


def test_another_coordinators_kit_shows_another_fingerprint(world: Founded) -> None:
    """Its signature is good: what finds it out is the fingerprint that is read out."""
    thief = Identity.generate()
    kit = papers.signed(
        structs.replace(papers.read_kit(world.kit(NAMES[0])), coordinator=thief.verify_key), thief
    )
    world.kit(NAMES[0]).write_bytes(papers.packed(kit, "page"))
    joined = party.join(world.kit(NAMES[0]), world.root / "new", "rows.csv", "rows")
    assert joined.coordinator != world.joined[NAMES[0]].coordinator


@pytest.mark.parametrize(
    "name", ["../evil.toml", "study.toml", "Study.toml", "/etc/x.toml", ".x.toml", "identity.key"]
)
def test_a_codebook_takes_no_other_files_place(name: str) -> None:
    with pytest.raises(ValueError, match="plain name"):
        papers.Packed("", "", (name, ""))


@pytest.mark.parametrize("data", [b"", b"PK", b"no kit", b"\x00" * 100])
def test_what_is_no_kit_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "kit").write_bytes(data)
    with pytest.raises(FileError, match="expected a kit"):
        papers.read_kit(tmp_path / "kit")


def test_a_kit_that_unpacks_to_much_is_refused(tmp_path: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("kit.json", bytes(2**25))
    (tmp_path / "kit").write_bytes(out.getvalue())
    with pytest.raises(FileError, match="at most"):
        papers.read_kit(tmp_path / "kit")


def without_me(edition: Edition) -> Edition:
    return structs.replace(edition, number=2, clients=edition.clients[1:])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without_me, "is not in this roster"),
        (lambda edition: structs.replace(edition, studies=(("", bytes(32)),)), "roster for the study"),
        (lambda edition: structs.replace(edition, why="another"), "signed two"),
    ],
)
def test_a_roster_that_does_not_fit_is_refused(
    world: Founded, change: Callable[[Edition], Edition], words: str
) -> None:
    edition = world.roster()
    folder = world.folders[edition.clients[0][0]]
    party.accept(folder, world.file(edition))
    before = (folder / "roster.toml").read_bytes()
    with pytest.raises(FileError, match=words):
        party.accept(folder, world.file(papers.signed(change(edition), world.key())))
    assert (folder / "roster.toml").read_bytes() == before


def test_a_roster_of_somebody_else_is_refused(world: Founded) -> None:
    """The server's key signs no roster, though it stands beside the coordinator's."""
    edition = world.roster()
    server = world.office / "server" / "identity.key"
    for identity in (
        Identity.generate(),
        keys.read_key(server, keys.service_passphrase, server=True)[1],
    ):
        with pytest.raises(FileError, match="signed with the key"):
            party.accept(world.folders[NAMES[0]], world.file(papers.signed(edition, identity)))


def test_an_older_roster_does_not_come_back(world: Founded) -> None:
    """A member that was removed would be back."""
    edition = world.roster()
    newer = papers.signed(structs.replace(edition, number=2, why="later"), world.key())
    party.accept(world.folders[NAMES[0]], world.file(newer))
    with pytest.raises(FileError, match="newer than number 2"):
        party.accept(world.folders[NAMES[0]], world.file(edition))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('parties = ["A", "A"]', "names that differ"),
        ('parties = ["a/b"]', "that a file can have"),
        ('parties = [" a"]', "that a file can have"),
        ('server = "server.example"', "HOST|address and a port"),
        ('server = "x y:80"', "address and a port"),
        ('study = "../study.toml"', "beside the project"),
        ("nothing = 1", "nothing"),
    ],
)
def test_a_project_that_cannot_be_meant_is_refused(line: str, words: str) -> None:
    kept = [one for one in PROJECT.splitlines() if one.split(" = ")[0] != line.split(" = ")[0]]
    with pytest.raises(FileError, match=words):
        parse("\n".join([*kept, line]))


def test_the_commands_say_what_to_do_next(tmp_path: Path) -> None:
    (tmp_path / "project.toml").write_text(PROJECT)
    (tmp_path / "study.toml").write_text(f'backend = "mask"\n{RIDGE}')

    def typed(*words: object) -> str:
        done = CliRunner().invoke(app, [*map(str, words)], env={"COLUMNS": "200"})
        assert done.exit_code == 0, done.output
        return done.output

    office = tmp_path / "office"
    assert "secure-afl members admit" in typed("provision", tmp_path / "project.toml", office)
    answers: list[Path] = []
    for number, kit in enumerate(sorted((office / "kits").iterdir())):
        assert "secure-afl accept" in typed("join", kit, tmp_path / str(number))
        answers += (tmp_path / str(number)).glob("*.answer.json")
    assert "all parties compare it by telephone" in typed("members", "admit", office, *answers)
    said = typed("accept", tmp_path / "0", office / "rosters" / "1.json")
    fingerprint = roster.read(office / "server" / "roster.toml").clients.fingerprint
    assert fingerprint in said
    assert "approve" in said
    study = Folder(tmp_path / "0").terms()[1].digest.hex()
    typed("study", "approve", tmp_path / "0", "--by", "A", "--reason", "B", "--study", study)
    again = CliRunner().invoke(app, ["provision", str(tmp_path / "project.toml"), str(office)])
    assert again.exit_code == 1
    assert "a new folder or an empty one" in " ".join(again.output.split())
