"""A party joins: it answers a kit with keys that it makes itself, and accepts the roster that comes of all answers."""

import json
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from secure_afl.federation import papers, units
from secure_afl.federation.certificates import node_key
from secure_afl.federation.coordinator import PROJECT, SIGNED, digests, write_rosters, write_studies
from secure_afl.federation.papers import Answer, Edition, Kit, Part
from secure_afl.federation.project import parse as parse_project
from secure_afl.federation.project import slug
from secure_afl.node.site import study_folder
from secure_afl.protocol.durable.store import Store
from secure_afl.protocol.files import keys, whole
from secure_afl.protocol.files import policy as policy_file
from secure_afl.protocol.session.errors import FileError
from secure_afl.protocol.session.policy import Policy

_KIT = "kit.json"


@dataclass(frozen=True)
class Joined:
    """What a party has now. answer: the file to send back; fingerprint: of its identity, to read out; coordinator: that of who
    signed the kit; studies: names and digests.
    """

    name: str
    answer: Path
    fingerprint: str
    coordinator: str
    studies: tuple[tuple[str, bytes], ...]


def join(kit_file: Path, folder: Path, table: str, data_set: str, passphrase: bytes | None = None) -> Joined:
    """Make a party's folder from a kit, with keys of its own.

    table, data_set: a client's rows, for `data.toml`, and what its ledger calls them; not used for a key holder. Of several
    studies each has a table of that name in its folder, and its name after that of the data set. Raises `FileError` for a kit that is none, and
    if the folder has something in it.
    """
    kit = papers.read_kit(kit_file)
    parse_project(kit.project)
    if len(kit.studies) > 1 and Path(table).name != table:
        raise FileError(
            f"expected the name that the table has in the folder of each of {len(kit.studies)} studies, got {table!r}: no table "
            "serves two studies; join with --table rows.csv, then name other tables in studies/NAME/data.toml"
        )
    with whole.new_folder(folder):
        member, secret, _ = keys.write_key(folder, kit.name, passphrase)
        secret.rename(folder / "identity.key")
        node, node_public = node_key()
        whole.write_new(folder / "node", node, whole.SECRET)
        for name, text in _texts(kit).items():
            whole.write_new(folder / name, text.encode(), whole.PUBLIC)
        write_studies(folder, kit.studies)
        if kit.part is Part.CLIENT:
            for one in kit.studies:
                named = f"{data_set}, {one.name}" if len(kit.studies) > 1 else data_set
                data = study_folder(folder, one.name) / "data.toml"
                whole.write_new(data, _data(table, named).encode(), whole.PUBLIC)
        unit = units.unit("node", folder, f"node of {kit.name}")
        whole.write_new(folder / units.NAME, unit.encode(), whole.PUBLIC)
        studies = _studies(folder, kit)
        _, identity = keys.read_key(folder / "identity.key", lambda: passphrase or b"")
        answer = Answer(papers.paper_digest(kit), kit.name, member.verify_key, node_public.decode())
        path = folder / f"{slug(kit.name)}.answer.json"
        whole.write_new(path, papers.encoded(papers.signed(answer, identity)), whole.PUBLIC)
    ours, coordinator = (
        papers.fingerprint(name, key)
        for name, key in ((kit.name, member.verify_key), ("coordinator", kit.coordinator))
    )
    return Joined(kit.name, path, ours, coordinator, studies)


def accept(folder: Path, file: Path) -> Edition:
    """Put a roster that the coordinator signed in the place of the one before; gives what it says.

    Raises `FileError` for a roster of another coordinator or study, one that is not newer, or that has not this party with
    its present key, and while a session is under way.
    """
    kit = papers.read(folder / _KIT, Kit)
    edition = papers.read(file, Edition, kit.coordinator)
    studies = _studies(folder, kit)
    if edition.studies != studies:
        raise FileError(
            f"{file}: expected a roster for the study {_shown(studies)} of {folder}, got one for "
            f"{_shown(edition.studies)}: ask the coordinator which study is meant"
        )
    if (folder / SIGNED).exists():
        before = papers.read(folder / SIGNED, Edition, kit.coordinator)
        if edition.number < before.number:
            raise FileError(
                f"{file}: expected a roster newer than number {before.number}, got number {edition.number}"
            )
        if edition.number == before.number and edition != before:
            raise FileError(
                f"{file}: expected the roster number {edition.number} that was accepted before, and this one of that "
                "number differs: the coordinator signed two; compare fingerprints with the other parties"
            )
    member, identity = keys.read_key(folder / "identity.key", keys.service_passphrase)
    if member not in edition.parties.everybody:
        raise FileError(
            f"{file}: {member.name} with its present key is not in this roster: ask the coordinator why"
        )
    if (folder / "state.db").exists():
        with closing(Store(folder / "state.db", identity)) as store:
            store.check_idle()
    write_rosters(folder, edition, edition.parties)
    whole.replace(folder / SIGNED, papers.encoded(edition))
    return edition


def _studies(folder: Path, kit: Kit) -> tuple[tuple[str, bytes], ...]:
    """Names and digests of the kit's studies, as they are in the party's folder. Raises `FileError`."""
    return digests(folder, (one.name for one in kit.studies))


def _shown(studies: tuple[tuple[str, bytes], ...]) -> str:
    return ", ".join(f"{name} {digest.hex()[:16]}…".strip() for name, digest in studies)


def _texts(kit: Kit) -> dict[str, str]:
    """The public files of a new party beside those of its studies, by name. Its policy is its own, and not the coordinator's."""
    return {
        _KIT: papers.encoded(kit).decode(),
        PROJECT: kit.project,
        "ca.crt": kit.authority,
        "node.toml": f"superlink = {json.dumps(kit.superlink)}\n",
        "policy.toml": policy_file.text(Policy()),
    }


def _data(table: str, data_set: str) -> str:
    """A client's `data.toml`."""
    return (
        "# The rows that this party contributes, and what its ledger calls them: they serve one session.\n"
        f"table = {json.dumps(table, ensure_ascii=False)}\n"
        f"name = {json.dumps(data_set, ensure_ascii=False)}\n"
    )
