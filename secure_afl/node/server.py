"""The server's SuperLink, from its folder; beside what the ServerApp reads there (see `secure_afl.node.site`):

server.toml     its two addresses and its certificate; see `Settings`
nodes/*.pub     the public keys of the nodes that may connect
superlink.db    made by it: registered nodes, runs, and messages on their way

"""

import gc
import ipaddress
import logging
import os
from contextlib import suppress
from pathlib import Path

import msgspec

from secure_afl.node.site import Folder, study_folders
from secure_afl.protocol.files import whole
from secure_afl.protocol.session.errors import FileError

_HERE = Path(__file__).resolve()


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`server.toml`. public: HOST:PORT for nodes, on all networks by the host 0.0.0.0 or ::; private: for the operator and the
    ServerApp, on loopback; certificate, key: of TLS at the public door (PEM); database: see above, empty for memory. Files are
    in the folder or elsewhere.
    """

    public: str = "0.0.0.0:8000"
    private: str = "127.0.0.1:8001"
    certificate: str = "server.crt"
    key: str = "server.key"
    database: str = ""

    def __post_init__(self) -> None:
        host, _ = address("public", self.public)
        private, _ = address("private", self.private)
        if not private.is_loopback:
            raise FileError(
                f"private: expected an address of this machine alone, such as 127.0.0.1:8001, got {self.private!r}: "
                "whoever reaches it may send messages to the nodes"
            )
        if self.public == self.private:
            raise FileError(f"expected two addresses, got {host} with one port twice")


def address(name: str, given: str) -> tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]:
    """An IP address and a port. Raises `FileError`."""
    host, _, port = given.rpartition(":")
    try:
        found = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
        if not 0 < int(port) < 2**16:
            raise ValueError
    except ValueError:
        raise FileError(
            f"{name}: expected an IP address and a port as 127.0.0.1:8001, got {given!r}"
        ) from None
    return found, int(port)


def settings(path: Path) -> Settings:
    """The settings in the server's folder. Raises `FileError`."""
    return whole.read_toml(path / "server.toml", Settings)


def serve(path: Path) -> None:
    """Run the SuperLink of a server's folder until SIGTERM or SIGINT. Raises `FileError`."""
    from secure_afl.protocol.transport.flower import superlink

    found = settings(path)
    (host, port), (private, inner) = address("public", found.public), address("private", found.private)
    nodes = path / "nodes"
    nodes.mkdir(exist_ok=True)
    link = superlink.Link(
        (str(host), port),
        (str(private), inner),
        path / found.certificate,
        path / found.key,
        path / found.database if found.database else None,
    )
    os.umask(0o077)  # for the database: it has what is on its way
    os.environ.update(superlink.QUIET)
    listening = logging.StreamHandler()
    listening.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    log = logging.getLogger(superlink.__name__)
    log.addHandler(listening)
    log.setLevel(logging.INFO)
    serving = superlink.SuperLink(link, lambda: superlink.node_keys(nodes), most=lambda: largest_answer(path))
    gc.freeze()  # what is loaded: a full collection would keep all nodes waiting
    serving.run()


def largest_answer(path: Path) -> int:
    """Bytes of the longest answer of a party in the studies of a server's folder; none of what cannot be read."""
    largest = 0
    with suppress(FileError):
        for one in study_folders(path):
            with suppress(FileError):
                largest = max(largest, Folder(one).terms()[0].largest_answer)
    return largest


def app_folder() -> Path:
    """The app of our runs: two names out of the installed package. In a checkout it is beside the package."""
    return next(one for at in (1, 2) if (one := _HERE.parents[at] / "apps" / "flower").is_dir())
