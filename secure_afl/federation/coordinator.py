"""The coordinator's folder: it invites parties, takes their answers in, and signs the roster.

project.toml    see `secure_afl.federation.project`; study.toml and a codebook beside it, or those of several studies in studies/NAME/
coordinator.key signs kits and rosters; keep it off the server
authority.key   signs the server's certificate, whose authority is ca.crt
kits/           one file a party, to send
answers/        what the parties answered
rosters/        1.json, 2.json, …: the signed editions, to send to every party
server/         the server's folder; it may move to another machine
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

from secure_afl.crypto.errors import CryptoError
from secure_afl.crypto.identity import Identity
from secure_afl.errors import DataError
from secure_afl.federation import papers, units
from secure_afl.federation.certificates import Authority
from secure_afl.federation.papers import Answer, Edition, Kit, Packed, Part
from secure_afl.federation.project import Project, slug
from secure_afl.federation.project import read as read_project
from secure_afl.federation.readme import readme
from secure_afl.node import study as study_file
from secure_afl.node.site import STUDIES, study_folder
from secure_afl.node.study import Study
from secure_afl.protocol.durable.store import Store
from secure_afl.protocol.files import keys, whole
from secure_afl.protocol.files import policy as policy_file
from secure_afl.protocol.files import roster as roster_file
from secure_afl.protocol.files.roster import Parties
from secure_afl.protocol.session.errors import FileError, LocalProtocolError
from secure_afl.protocol.session.policy import Policy

PROJECT, SIGNED = "project.toml", "roster.json"
_AUTHORITY_DAYS, _SERVER_DAYS = 3650, 825


@dataclass(frozen=True)
class Taken:
    """What came of answers. answered: this time, by name, with fingerprints; missing: who has not answered yet; edition, file: the
    roster, None until all have answered.
    """

    answered: dict[str, str]
    missing: tuple[str, ...]
    edition: Edition | None = None
    file: Path | None = None


def provision(file: Path, out: Path) -> tuple[Path, ...]:
    """Make the coordinator's folder of a project, with a kit for each party and the server's folder; gives the kits.

    Raises `FileError` for a project or study that cannot be meant, and if the folder is there already.
    """
    project = read_project(file)
    read = _studies(project, {name: file.parent / one for name, one in project.studies.items()})
    studies = tuple(read)
    with whole.new_folder(out):
        whole.write_new(out / PROJECT, whole.read(file), whole.PUBLIC)
        write_studies(out, studies)
        keys.write_key(out, "coordinator", server=True)  # no roster takes it
        authority = Authority.make(f"authority of {project.name}"[:64], _AUTHORITY_DAYS)
        whole.write_new(out / "authority.key", authority.key_pem, whole.SECRET)
        whole.write_new(out / "ca.crt", authority.pem, whole.PUBLIC)
        _make_server(out, project, read, authority)
        for name in ("kits", "answers", "rosters"):
            (out / name).mkdir()
        return tuple(_make_kit(out, project, name, studies) for name in project.everybody)


def take_in(
    folder: Path, answers: Sequence[Path], why: str = "the first roster", *, replace: bool = False
) -> Taken:
    """Take parties' answers in; with the last of them, sign the roster and put it into the server's folder.

    why: what changed, for the roster. replace: an answer with other keys takes the place of the party's earlier one.
    Raises `FileError` for a file that is not an answer, an answer to another kit, or one that differs from one that was taken in before, and
    while a session is under way in the server's folder.
    """
    project = read_project(folder / PROJECT)
    _check_studies(folder, project)
    _check_idle(folder)
    read = [papers.read(path, Answer) for path in answers]
    for path, answer in zip(answers, read, strict=True):
        _check(folder, project, path, answer, replace)
    for answer in read:
        _keep(folder, answer)
    fingerprints = {one.name: papers.fingerprint(one.name, one.verify_key) for one in read}
    return _signed(folder, project, why, fingerprints)


def follow(folder: Path, why: str) -> tuple[tuple[Path, ...], Taken]:
    """Bring all in line with `project.toml`, after names were added to it or taken out: kits for new parties, no node of one
    that left, and a new roster if all have answered. Gives the new kits. Raises `FileError` as `take_in` does.
    """
    project = read_project(folder / PROJECT)
    _check_studies(folder, project)
    _check_idle(folder)
    studies = _kept_studies(folder, project)
    names = {slug(name) for name in project.everybody}
    for path in (*(folder / "answers").glob("*.json"), *(folder / "server" / "nodes").glob("*.pub")):
        if path.stem not in names:
            path.unlink()
    new = [name for name in project.everybody if not _kit_file(folder, name).exists()]
    kits = tuple(_make_kit(folder, project, name, studies) for name in new)
    return kits, _signed(folder, project, why, {})


def certify(folder: Path) -> Path:
    """A new certificate for the server, by the same authority, in the place of the old one. A server that runs shows it within
    seconds, and no session is lost. Raises `FileError`.
    """
    project, server = read_project(folder / PROJECT), folder / "server"
    authority = Authority.of_pem(
        whole.read(folder / "authority.key", secret=True), whole.read(folder / "ca.crt")
    )
    certificate, key = authority.server(project.host, _SERVER_DAYS)
    (server / "server.key").unlink(missing_ok=True)
    whole.write_new(server / "server.key", key, whole.SECRET)
    whole.replace(server / "server.crt", certificate)  # last: whoever sees it finds its key
    return server / "server.crt"


def _check_studies(folder: Path, project: Project) -> None:
    """Raises `FileError` unless the project still has the studies of its kits: parties refuse a roster for others."""
    for file in sorted((folder / "kits").glob("*.zip")):
        names = [one.name for one in papers.read_kit(file).studies]
        if names != list(project.studies):
            raise FileError(
                f"{folder / PROJECT}: expected the studies that {file.name} has ({_named(names)}), got {_named(project.studies)}: "
                "lay out a further study by hand; to leave one out, have the parties revoke it"
            )


def _named(studies: Iterable[str]) -> str:
    return ", ".join(studies) or "one without a name"


def _check_idle(folder: Path) -> None:
    """Raises `FileError` while the server's folder has a session under way: it has the roster of its beginning."""
    server = folder / "server"
    for at in (server, *(server / STUDIES).glob("*")):
        if not (at / "state.db").exists():
            continue
        _, identity = keys.read_key(server / "identity.key", keys.service_passphrase, server=True)
        with closing(Store(at / "state.db", identity)) as store:
            store.check_idle()


def _signed(folder: Path, project: Project, why: str, fingerprints: dict[str, str]) -> Taken:
    missing = tuple(name for name in project.everybody if not _answer_file(folder, name).exists())
    if missing:
        return Taken(fingerprints, missing)
    edition = _sign(folder, project, why)
    return Taken(fingerprints, (), edition, edition_file(folder, edition.number))


def _studies(project: Project, files: Mapping[str, Path]) -> dict[Packed, Study]:
    """The studies of these files, as kits have them, and as they are read. Raises `FileError` for one that is not for this
    project.
    """
    made = {}
    for name, path in files.items():
        study = _fitting(path, project)
        try:
            made[Packed(name, whole.read_text(path), _codebook(path))] = study
        except ValueError as error:
            raise FileError(f"{path}: {error}") from None
    return made


def _kept_studies(folder: Path, project: Project) -> tuple[Packed, ...]:
    """The studies in the coordinator's folder."""
    files = {name: study_folder(folder, name) / "study.toml" for name in project.studies}
    return tuple(_studies(project, files))


def _fitting(path: Path, project: Project) -> Study:
    """The study in a file. Raises `FileError` unless it is one for so many parties."""
    study = study_file.read(path)
    try:
        study.plan(len(project.parties))
    except (CryptoError, DataError, LocalProtocolError) as error:
        raise FileError(f"{path}: {error}") from None
    if (study.encryption is not None) != bool(project.key_holders):
        wanted = "key_holders" if study.encryption else "no key_holders"
        raise FileError(f"{path}: expected {wanted} in the project for the backend {study.backend.value}")
    return study


def write_studies(folder: Path, studies: Sequence[Packed]) -> None:
    """Put the files of studies into a folder, the coordinator's, the server's or a party's. Raises `FileError`."""
    for one in studies:
        at = study_folder(folder, one.name)
        at.mkdir(parents=True, exist_ok=True)
        for name, text in one.files.items():
            whole.write_new(at / name, text.encode(), whole.PUBLIC)


def digests(folder: Path, names: Iterable[str]) -> tuple[tuple[str, bytes], ...]:
    """Names and digests of the studies of these names in a folder. Raises `FileError`."""
    return tuple((name, study_file.read(study_folder(folder, name) / "study.toml").digest) for name in names)


def _codebook(study: Path) -> tuple[str, str] | None:
    """Its file's name and text, if the study names one."""
    named = whole.load_toml(whole.read_text(study)).get("codebook")
    if not isinstance(named, str):
        return None
    if "/" in named or named.startswith("."):
        raise FileError(f"{study}: expected a codebook beside the study, got {named!r}")
    return named, whole.read_text(study.parent / named)


def _make_server(out: Path, project: Project, studies: Mapping[Packed, Study], authority: Authority) -> None:
    server = out / "server"
    server.mkdir(mode=0o700)
    (server / "nodes").mkdir()
    _, secret, _ = keys.write_key(server, "server", server=True)
    secret.rename(server / "identity.key")
    certificate, key = authority.server(project.host, _SERVER_DAYS)
    whole.write_new(server / "server.crt", certificate, whole.PUBLIC)
    whole.write_new(server / "server.key", key, whole.SECRET)
    local = project.host in ("127.0.0.1", "localhost")
    settings = (
        f'public = "{"127.0.0.1" if local else "0.0.0.0"}:{project.port}"\nprivate = "{project.private}"\n'
    )
    texts = {
        "server.toml": settings,
        units.NAME: units.unit("serve", server, f"server of {project.name}"),
    }
    for name, text in texts.items():
        whole.write_new(server / name, text.encode(), whole.PUBLIC)
    write_studies(server, tuple(studies))
    for one, study in studies.items():
        policy = Policy(backends=frozenset({study.backend}), trusts_reports=study.trust(len(project.parties)))
        at = study_folder(server, one.name) / "policy.toml"
        whole.write_new(at, policy_file.text(policy).encode(), whole.PUBLIC)
    whole.write_new(server / PROJECT, whole.read(out / PROJECT), whole.PUBLIC)


def _make_kit(out: Path, project: Project, name: str, studies: tuple[Packed, ...]) -> Path:
    coordinator = _coordinator(out)
    part = Part.CLIENT if name in project.parties else Part.HOLDER
    kit = Kit(
        name,
        part,
        whole.read_text(out / PROJECT),
        studies,
        project.server,
        whole.read_text(out / "ca.crt"),
        coordinator.verify_key,
    )
    made = papers.signed(kit, coordinator)
    path = _kit_file(out, name)
    whole.write_new(path, papers.packed(made, readme(made)), whole.PUBLIC)
    return path


def _kit_file(folder: Path, name: str) -> Path:
    return folder / "kits" / f"{slug(name)}.zip"


def _coordinator(folder: Path) -> Identity:
    return keys.read_key(folder / "coordinator.key", keys.service_passphrase, server=True)[1]


def _check(folder: Path, project: Project, path: Path, answer: Answer, replace: bool) -> None:
    """Raises `FileError` unless this coordinator asked for the answer."""
    if answer.name not in project.everybody:
        raise FileError(f"{path}: expected the answer of a party of {folder / PROJECT}, got {answer.name!r}")
    kit = papers.read_kit(_kit_file(folder, answer.name))
    if answer.kit != papers.paper_digest(kit):
        raise FileError(
            f"{path}: {answer.name} answered another kit than that in {folder / 'kits'}: send it again"
        )
    kept = _answer_file(folder, answer.name)
    if kept.exists() and not replace and whole.read(kept) != papers.encoded(answer):
        raise FileError(
            f"{path}: {answer.name} answered before, with other keys ({kept}): ask by telephone which answer is theirs; "
            "if it is this one, add --replace"
        )
    try:
        key = load_ssh_public_key(answer.node_key.encode())
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise FileError(
            f"{path}: expected a node's public key (ecdsa) in the answer of {answer.name}, got {answer.node_key[:24]!r}: ask "
            "for the answer again"
        )


def _keep(folder: Path, answer: Answer) -> None:
    whole.replace(_answer_file(folder, answer.name), papers.encoded(answer))
    whole.replace(folder / "server" / "nodes" / f"{slug(answer.name)}.pub", f"{answer.node_key}\n".encode())


def _answer_file(folder: Path, name: str) -> Path:
    return folder / "answers" / f"{slug(name)}.json"


def _sign(folder: Path, project: Project, why: str) -> Edition:
    """The next edition, by the answers that are there; the last one if nothing changed."""
    answers = {name: papers.read(_answer_file(folder, name), Answer) for name in project.everybody}
    clients, holders = (
        tuple((name, answers[name].verify_key) for name in sorted(names))
        for names in (project.parties, project.key_holders)
    )
    studies = digests(folder, project.studies)
    coordinator = _coordinator(folder)
    last = latest(folder)
    edition = Edition(last.number + 1 if last else 1, studies, clients, holders, why)
    if last and (last.studies, last.clients, last.key_holders) == (studies, clients, holders):
        return last
    made = papers.signed(edition, coordinator)
    try:
        parties = made.parties
    except LocalProtocolError as error:
        raise FileError(f"{folder / 'answers'}: {error}") from None
    whole.write_new(edition_file(folder, made.number), papers.encoded(made), whole.PUBLIC)
    whole.replace(folder / "server" / SIGNED, papers.encoded(made))
    write_rosters(folder / "server", made, parties)
    return made


def write_rosters(folder: Path, edition: Edition, parties: Parties) -> None:
    """Put an edition's roster into the folder of each study that it is for, at the server or a party. Raises `FileError`."""
    for name, _ in edition.studies:
        whole.replace(study_folder(folder, name) / "roster.toml", roster_file.text(parties).encode())


def latest(folder: Path) -> Edition | None:
    """The last roster that the coordinator signed. Raises `FileError`."""
    numbers = [int(path.stem) for path in (folder / "rosters").glob("*.json") if path.stem.isdecimal()]
    if not numbers:
        return None
    return papers.read(edition_file(folder, max(numbers)), Edition, _coordinator(folder).verify_key)


def edition_file(folder: Path, number: int) -> Path:
    """Where a signed roster is."""
    return folder / "rosters" / f"{number}.json"
