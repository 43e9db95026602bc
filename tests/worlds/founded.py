"""A federation that was founded by kits, for tests of how parties join and leave."""

from dataclasses import dataclass, field
from pathlib import Path

from secure_afl.crypto.identity import Identity
from secure_afl.federation import coordinator, papers, party
from secure_afl.federation.papers import Answer, Edition, Kit
from secure_afl.federation.project import slug
from secure_afl.protocol.files import keys
from worlds.folders import RIDGE

NAMES = ("Hospital A", "Klinik Süd", "C")


def project(*names: str) -> str:
    return f'name = "A study"\nparties = {list(names)}\nserver = "127.0.0.1:8000"\ncontact = "Dr Noor"\n'


@dataclass
class Founded:
    """A project that was provisioned, and whose parties have joined. folders, answers: by name."""

    root: Path
    folders: dict[str, Path] = field(default_factory=dict)
    answers: dict[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.office = self.root / "office"
        (self.root / "project.toml").write_text(project(*NAMES))
        (self.root / "study.toml").write_text(f'backend = "mask"\n{RIDGE}')
        coordinator.provision(self.root / "project.toml", self.office)
        self.joined = {name: self.join(name) for name in NAMES}

    def kit(self, name: str) -> Path:
        return self.office / "kits" / f"{slug(name)}.zip"

    def join(self, name: str, folder: str = "") -> party.Joined:
        """In a new folder."""
        self.folders[name] = self.root / (folder or slug(name))
        joined = party.join(self.kit(name), self.folders[name], "rows.csv", "rows")
        self.answers[name] = joined.answer
        return joined

    def key(self) -> Identity:
        return keys.read_key(self.office / "coordinator.key", keys.service_passphrase, server=True)[1]

    def roster(self) -> Edition:
        """That of all answers."""
        edition = coordinator.take_in(self.office, list(self.answers.values())).edition
        assert edition is not None
        return edition

    def file(self, paper: Answer | Edition | Kit) -> Path:
        path = self.root / "paper.json"
        path.write_bytes(papers.encoded(paper))
        return path
