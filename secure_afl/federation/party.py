"""A party joins: it answers a kit with keys that it makes itself, and accepts the roster that comes of all answers."""

import json
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from secure_afl.federation import papers, units
from secure_afl.federation.certificates import node_key
from secure_afl.federation.coordinator import PROJECT, SIGNED
from secure_afl.federation.papers import Answer, Edition, Kit, Part
from secure_afl.federation.project import parse as parse_project
from secure_afl.federation.project import slug
from secure_afl.node import study as study_file
from secure_afl.protocol.durable.store import Store
from secure_afl.protocol.files import keys, whole
from secure_afl.protocol.files import policy as policy_file
from secure_afl.protocol.files import roster as roster_file
from secure_afl.protocol.session.errors import FileError
from secure_afl.protocol.session.policy import Policy

_KIT = "kit.json"


@dataclass(frozen=True)
class Joined:
    """What a party has now. answer: the file to send back; fingerprint: of its identity, to read out; coordinator: that of who
    signed the kit; study: digest.
    """

    name: str
    answer: Path
    fingerprint: str
    coordinator: str
    study: bytes


def join(kit_file: Path, folder: Path, table: str, data_set: str, passphrase: bytes | None = None) -> Joined:
    """Make a party's folder from a kit, with keys of its own.

    table, data_set: a client's rows, for `data.toml`, and what its ledger calls them; not used for a key holder. Raises `FileError` for a kit that is
    none, and if the folder has something in it.
    """
    kit = papers.read_kit(kit_file)
    parse_project(kit.project)
    with whole.new_folder(folder):
        member, secret, _ = keys.write_key(folder, kit.name, passphrase)
        secret.rename(folder / "identity.key")
        node, node_public = node_key()
        whole.write_new(folder / "node", node, whole.SECRET)
        for name, text in _texts(kit, table, data_set).items():
            whole.write_new(folder / name, text.encode(), whole.PUBLIC)
        unit = units.unit("node", folder, f"node of {kit.name}")
        whole.write_new(folder / units.NAME, unit.encode(), whole.PUBLIC)
        study = study_file.read(folder / "study.toml")
        _, identity = keys.read_key(folder / "identity.key", lambda: passphrase or b"")
        answer = Answer(papers.paper_digest(kit), kit.name, member.verify_key, node_public.decode())
        path = folder / f"{slug(kit.name)}.answer.json"
        whole.write_new(path, papers.encoded(papers.signed(answer, identity)), whole.PUBLIC)
    ours, coordinator = (
        papers.fingerprint(name, key)
        for name, key in ((kit.name, member.verify_key), ("coordinator", kit.coordinator))
    )
    return Joined(kit.name, path, ours, coordinator, study.digest)


def accept(folder: Path, file: Path) -> Edition:
    """Put a roster that the coordinator signed in the place of the one before; gives what it says.

    Raises `FileError` for a roster of another coordinator or study, one that is not newer, or that has not this party with
    its present key, and while a session is under way.
    """
    kit = papers.read(folder / _KIT, Kit)
    edition = papers.read(file, Edition, kit.coordinator)
    study = study_file.read(folder / "study.toml").digest
    if edition.study != study:
        raise FileError(
            f"{file}: expected a roster for the study {study.hex()[:16]}… of {folder}, got one for "
            f"{edition.study.hex()[:16]}…: ask the coordinator which study is meant"
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
            if names := store.open_sessions():
                raise FileError(
                    f"{folder}: expected no session under way, got {', '.join(names)}: wait for its end, or give it up "
                    "(secure-afl flower give-up)"
                )
    whole.replace(folder / "roster.toml", roster_file.text(edition.parties).encode())
    whole.replace(folder / SIGNED, papers.encoded(edition))
    return edition


def _texts(kit: Kit, table: str, data_set: str) -> dict[str, str]:
    """The public files of a new party, by name. Its policy is its own, and not the coordinator's."""
    files = {
        _KIT: papers.encoded(kit).decode(),
        PROJECT: kit.project,
        "study.toml": kit.study,
        "ca.crt": kit.authority,
        "node.toml": f"superlink = {json.dumps(kit.superlink)}\n",
        "policy.toml": policy_file.text(Policy()),
    }
    if kit.codebook:
        files[kit.codebook[0]] = kit.codebook[1]
    if kit.part is Part.CLIENT:
        files["data.toml"] = (
            "# The rows that this party contributes, and what its ledger calls them: they serve one session.\n"
            f"table = {json.dumps(table, ensure_ascii=False)}\n"
            f"name = {json.dumps(data_set, ensure_ascii=False)}\n"
        )
    return files
