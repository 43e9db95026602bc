"""What properties about members and policies are drawn from."""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import strategies as st

from secure_afl.crypto.hpke import Suite
from secure_afl.protocol.session.backend import Backend
from secure_afl.protocol.session.parameters import Profile
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.session.profile import Trust, Verify
from secure_afl.protocol.session.roster import Member

names = st.text(st.characters(exclude_categories=["C"]), min_size=1, max_size=64).filter(
    lambda name: name.isprintable() and name == name.strip()
)
verify_keys = st.binary(min_size=32, max_size=32).map(
    lambda seed: Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
)
members = st.builds(Member, names, verify_keys)

_fractions = st.floats(0, 1, exclude_max=True)
policies = st.builds(
    Policy,
    minimum_honest=st.integers(2, 10) | st.integers(2, 10**6),
    corrupted=_fractions,
    dropout=_fractions,
    backends=st.frozensets(st.sampled_from(Backend), min_size=1),
    profiles=st.frozensets(st.sampled_from(Profile), min_size=1),
    suites=st.frozensets(st.sampled_from(Suite), min_size=1),
    verify=st.frozensets(st.sampled_from(Verify), min_size=1),
    trusts_reports=st.sampled_from(Trust),
)
