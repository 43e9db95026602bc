"""The measured grid: each cell is one secure sum of one size under one backend."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import product

from secure_afl.crypto.hpke import Suite
from secure_afl.errors import DataError
from secure_afl.protocol.homomorphic.agreement import Encryption
from secure_afl.protocol.session import graph
from secure_afl.protocol.session.backend import SECURE, Backend
from secure_afl.protocol.session.parameters import Profile, SumPlan
from secure_afl.protocol.session.policy import Policy
from secure_afl.simulations.overhead import axes
from secure_afl.testing.faults import dropouts

# The widest words whose precision the backend holds: no parameter set of BFV has more than 60 bits for a sum.
_WIDEST = {Backend.MASK: 8, Backend.BFV_MASK: 7, Backend.BFV: 7}
_NARROWEST = 4


@dataclass(frozen=True)
class Cell:
    """One secure sum: the statistics of `features` columns and `classes` labels, over so many clients.

    dropout: the fraction of clients that drops out after the key exchange. width: bytes of a word; the precision is the most
    that it holds (None for CKKS, which has none). suite, profile: of the masks (None without masks; encrypted
    sessions always assume that the server may lie).

    Raises `DataError` for what no session can be, and what the protocol refuses, before anything is measured.
    """

    backend: Backend
    clients: int
    features: int
    classes: int
    dropout: float = 0.0
    width: int | None = None
    suite: Suite | None = None
    profile: Profile | None = None

    def __post_init__(self) -> None:
        if self.backend not in SECURE:
            raise DataError(f"expected backends from {', '.join(SECURE)}, got {str(self.backend)!r}")
        if self.clients < 2 or self.features < 1 or self.classes < 0 or not 0 <= self.dropout < 1:
            raise DataError(f"expected 2 clients, a feature, a share below 1 that drops out, got {self}")
        widest = _WIDEST.get(self.backend)
        if widest is None and self.width is not None:
            raise DataError(f"{self.backend} has no words, got a width of {self.width}")
        if widest is not None and (self.width is None or not _NARROWEST <= self.width <= widest):
            raise DataError(
                f"{self.backend}: expected words of {_NARROWEST} to {widest} bytes, got {self.width}"
            )
        if self.masked != (self.suite is not None) or self.masked != (self.profile is not None):
            raise DataError(f"expected a suite and a profile just where there are masks, got {self}")
        if self.profile:
            self.neighbours  # noqa: B018  raises what the graph refuses

    @property
    def masked(self) -> bool:
        """Whether clients mask."""
        return self.backend.masked

    @property
    def holders(self) -> int:
        """Number of key holders."""
        return int(self.backend.encrypted)

    @property
    def values(self) -> int:
        """Entries of the vector: upper triangle of the Gram matrix, cross-covariance, count."""
        return self.features * (self.features + 1) // 2 + self.features * self.classes + 1

    @property
    def policy(self) -> Policy:
        """Every client's policy: the default, as far as the cell allows."""
        return Policy(
            dropout=max(self.dropout, Policy.dropout),
            backends=frozenset({self.backend}),
            profiles=frozenset({self.profile or Profile.ACTIVE}),
            suites=frozenset({self.suite or Suite.HYBRID}),
        )

    @property
    def neighbours(self) -> int:
        """Number of clients with which a client shares masks; 0 without masks."""
        if self.profile is None:
            return 0
        policy = self.policy
        corrupted = policy.colluders(self.clients)
        return graph.choose(self.clients, self.profile, corrupted=corrupted, dropout=policy.dropout).degree

    @property
    def complete(self) -> bool:
        """Whether every two clients are neighbours."""
        return self.neighbours == self.clients - 1

    @property
    def encryption(self) -> Encryption | None:
        """How the sum is encrypted, or None. The key holder releases the sum, so that it can be checked."""
        return Encryption(self.backend) if self.backend.encrypted else None

    @property
    def plan(self) -> SumPlan:
        """One sum of values from -1 to 1."""
        if self.width is None:
            return SumPlan("overhead", self.values, 1.0)
        each = (2 ** (8 * self.width - 1) - 1) // self.clients
        return SumPlan("overhead", self.values, 1.0, each.bit_length() - 1)

    @property
    def silent(self) -> frozenset[int]:
        """The clients that drop out: a fixed draw."""
        return dropouts(self.clients, self.dropout, seed=0)

    @property
    def falls_silent(self) -> str:
        """The phase whose answer the server does not get. In a layered session clients drop out before they encrypt."""
        return "collecting" if self.masked else "encrypting"

    def names(self) -> list[str]:
        """The clients' names, by index."""
        return [f"client-{index:04}" for index in range(self.clients)]

    def described(self) -> dict[str, object]:
        """The cell as written in figures."""
        said: dict[str, object] = {one.name: getattr(self, one.name) for one in fields(self)}
        for name in ("suite", "profile"):
            said[name] = said[name] and getattr(self, name).value
        return said | {"values": self.values, "neighbours": self.neighbours}


@dataclass(frozen=True)
class Axes:
    """Values of each parameter. While another parameter varies, a parameter has its first value.

    sparse: the numbers of clients under the profiles after the first; None is `clients`.
    """

    backends: Sequence[Backend] = axes.BACKENDS
    clients: Sequence[int] = axes.CLIENTS
    features: Sequence[int] = axes.FEATURES
    classes: Sequence[int] = axes.CLASSES
    dropouts: Sequence[float] = axes.DROPOUTS
    widths: Sequence[int] = axes.WIDTHS
    suites: Sequence[Suite] = axes.SUITES
    profiles: Sequence[Profile] = axes.PROFILES
    sparse: Sequence[int] | None = axes.SPARSE_CLIENTS

    def __post_init__(self) -> None:
        for one in fields(self):
            values = getattr(self, one.name)
            if values is not None and (not values or len(set(values)) != len(values)):
                raise DataError(f"{one.name}: expected at least one value and none twice, got {list(values)}")

    def base(self, backend: Backend) -> Cell:
        """The cell where the axes meet."""
        return self._cell(backend, *(getattr(self, name)[0] for name in _PARAMETERS))

    def cells(self, *, full: bool) -> tuple[Cell, ...]:
        """One axis at a time from the base; full: every combination. No cell occurs twice, and the order is fixed."""
        walk = self._product if full else self._star
        return tuple(dict.fromkeys(cell for backend in self.backends for cell in walk(backend)))

    def _product(self, backend: Backend) -> Iterator[Cell]:
        for values in product(*(getattr(self, name) for name in _PARAMETERS)):
            if self._fits(backend, values[_PARAMETERS.index("widths")]):
                yield self._cell(backend, *values)

    def _star(self, backend: Backend) -> Iterator[Cell]:
        base = self.base(backend)
        yield base
        for name, field in _FIELDS.items():
            if getattr(base, field) is None or name == "profiles":
                continue
            for value in getattr(self, name):
                if name != "widths" or self._fits(backend, value):
                    yield replace(base, **{field: value})
        for profile in self.profiles[1:] if base.masked else ():
            for clients in self.sparse or self.clients:
                yield replace(base, profile=profile, clients=clients)

    def _fits(self, backend: Backend, width: int) -> bool:
        return width <= _WIDEST.get(backend, width)

    def _cell(
        self,
        backend: Backend,
        clients: int,
        features: int,
        classes: int,
        dropout: float,
        width: int,
        suite: Suite,
        profile: Profile,
    ) -> Cell:
        masked = backend.masked
        return Cell(
            backend,
            clients,
            features,
            classes,
            dropout,
            width if backend in _WIDEST else None,
            suite if masked else None,
            profile if masked else None,
        )


_FIELDS = {
    "clients": "clients",
    "features": "features",
    "classes": "classes",
    "dropouts": "dropout",
    "widths": "width",
    "suites": "suite",
    "profiles": "profile",
}
"""Names in a cell of the fields of `Axes`."""
_PARAMETERS = tuple(_FIELDS)
