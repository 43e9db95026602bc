"""Keys for a local Flower network: a temporary certificate authority, a server certificate, node keys."""

from dataclasses import dataclass
from pathlib import Path

from secure_afl.federation.certificates import Authority, node_key
from secure_afl.protocol.files import whole

_DAYS = 30


@dataclass(frozen=True)
class Certificates:
    """Files. nodes: each node's secret key; its public one is beside it, with the ending .pub."""

    authority: Path
    server: Path
    server_key: Path
    nodes: tuple[Path, ...]


def make(folder: Path, nodes: int) -> Certificates:
    """A server certificate for localhost, valid for 30 days, and keys for so many nodes. The authority's key is not kept.

    Raises `FileError` if a file is there already or cannot be written.
    """
    authority = Authority.make("secure-afl loopback authority", _DAYS)
    certificate, key = authority.server("localhost", _DAYS)
    made = Certificates(
        folder / "authority.crt",
        folder / "server.crt",
        folder / "server.key",
        tuple(folder / f"node-{number}" for number in range(nodes)),
    )
    whole.write_new(made.authority, authority.pem, whole.PUBLIC)
    whole.write_new(made.server, certificate, whole.PUBLIC)
    whole.write_new(made.server_key, key, whole.SECRET)
    for path in made.nodes:
        secret, public = node_key()
        whole.write_new(path, secret, whole.SECRET)
        whole.write_new(path.with_suffix(".pub"), public, whole.PUBLIC)
    return made
