"""How a statistic leaves a client."""

from collections.abc import Collection
from enum import StrEnum

from secure_afl.protocol.session.errors import LocalProtocolError


class Backend(StrEnum):
    """The forms in which a statistic can be sent.

    MASK: under pairwise masks. BFV_MASK: masked, then encrypted under BFV. BFV, CKKS: only encrypted, for key holders;
    BFV is exact, CKKS approximate. PLAIN: in the clear, for comparison. Files and options use the values as names.
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
        """Whether clients encrypt to key holders."""
        return self in (Backend.BFV_MASK, Backend.BFV, Backend.CKKS)

    @property
    def exact(self) -> bool:
        """Whether the sum of the fixed-point integers is exact. Noise for differential privacy requires this."""
        return self in (Backend.MASK, Backend.BFV_MASK, Backend.BFV)


SECURE = tuple(one for one in Backend if one is not Backend.PLAIN)
ENCRYPTED = tuple(one for one in Backend if one.encrypted)


def parse(name: str, among: Collection[Backend] = tuple(Backend)) -> Backend:
    """The backend of this name. Raises `LocalProtocolError`, which lists the allowed names, for any other name."""
    if name not in among:
        expected = " or ".join([", ".join(list(among)[:-1]), list(among)[-1]])
        raise LocalProtocolError(f"expected the backend {expected}, got {str(name)!r}")
    return Backend(name)
