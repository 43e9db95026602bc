"""Default values of each axis; the first value is used while another axis varies. Loads nothing heavy."""

from secure_afl.crypto.hpke import Suite
from secure_afl.protocol.session.backend import SECURE
from secure_afl.protocol.session.profile import Profile

BACKENDS = SECURE
CLIENTS = (20, 10, 30, 40, 60)
SPARSE_CLIENTS = (50, 70, 100, 140, 200)
"""Numbers of clients for the profiles after the first."""
FEATURES = (64, 16, 32, 128, 256)
CLASSES = (10, 2, 50)
DROPOUTS = (0.0, 0.05, 0.1, 0.2, 0.3)
WIDTHS = (5, 4, 6, 7, 8)
SUITES = (Suite.HYBRID, Suite.X25519)
PROFILES = (Profile.ACTIVE, Profile.SEMI_HONEST)
