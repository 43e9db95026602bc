import pytest
from hypothesis import given
from hypothesis import strategies as st

from secure_afl.protocol.session.errors import PolicyError
from secure_afl.protocol.session.ledger import Ledger

sessions = st.sampled_from([bytes([i]) * 32 for i in range(4)])
names = st.sampled_from(["2024", "2025", ""])


@given(st.lists(st.tuples(names, sessions, st.booleans()), max_size=12))
def test_a_data_set_serves_one_session_until_its_owner_renews_it(uses: list[tuple[str, bytes, bool]]) -> None:
    ledger, used = Ledger(), dict[str, bytes]()
    for name, session, renewed in uses:
        if renewed:
            ledger.renew(name, may_expose=True)
            used.pop(name, None)
        if used.setdefault(name, session) == session:
            ledger.use(name, session)
        else:
            with pytest.raises(PolicyError, match=r"used in session .* already"):
                ledger.use(name, session)


def test_a_session_is_joined_once() -> None:
    ledger = Ledger()
    ledger.join(bytes(32))
    ledger.join(b"\1" * 32)
    with pytest.raises(PolicyError, match="replay"):
        ledger.join(bytes(32))
