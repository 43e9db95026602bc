"""How a statistic leaves a client."""

from collections.abc import Collection
from enum import StrEnum

from secure_afl.protocol.session.errors import LocalProtocolError


class Backend(StrEnum):
    """Every form, from the safest to none.

    MASK: under pairwise masks. BFV_MASK: masked, and encrypted under BFV besides. BFV, CKKS: only encrypted, for key
    holders; exact and approximate. PLAIN: in the clear, for comparison. Names in files and options are the values.
    """

    MASK = "mask"
    BFV_MASK = "bfv+mask"
    BFV = "bfv"
    CKKS = "ckks"
    PLAIN = "plain"

    @property
    def masked(self) -> bool:
        """Whether clients mask."""
        return self in (Backend.MASK, Backend.BFV_MASK)

    @property
    def encrypted(self) -> bool:
        """Whether clients encrypt, for key holders."""
        return self in (Backend.BFV_MASK, Backend.BFV, Backend.CKKS)

    @property
    def exact(self) -> bool:
        """Whether the protocol's sum is that of fixed-point units to the last bit, as noise for privacy needs."""
        return self in (Backend.MASK, Backend.BFV_MASK, Backend.BFV)


SECURE = tuple(one for one in Backend if one is not Backend.PLAIN)
ENCRYPTED = tuple(one for one in Backend if one.encrypted)


def parse(name: str, among: Collection[Backend] = tuple(Backend)) -> Backend:
    """The backend of this name. Raises `LocalProtocolError` that lists those which are expected."""
    if name not in among:
        expected = " or ".join([", ".join(list(among)[:-1]), list(among)[-1]])
        raise LocalProtocolError(f"expected the backend {expected}, got {str(name)!r}")
    return Backend(name)
