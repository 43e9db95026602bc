"""How masks come off an upload, given a client's secrets and what the server relayed."""

from collections.abc import Iterable, Mapping

import numpy as np

from secure_afl.crypto.hpke import KeyPair
from secure_afl.crypto.identity import SIGNATURE_BYTES
from secure_afl.crypto.kdf import Label
from secure_afl.crypto.prg import add_keystreams
from secure_afl.crypto.shamir import combine
from secure_afl.protocol.masking import messages
from secure_afl.protocol.session.parameters import Parameters
from secure_afl.protocol.session.wire import decode
from secure_afl.simulations.attacks.tap import Tap, decoded
from secure_afl.simulations.data.dataset import Floats


def revealed(frames: Mapping[int, bytes], target: int, threshold: int) -> bytes:
    """The seed of `target` whose shares these clients revealed, by client."""
    shares = {}
    for holder, frame in frames.items():
        reveal = decode(memoryview(frame)[:-SIGNATURE_BYTES], messages.FROM_CLIENT)
        assert isinstance(reveal, messages.Reveal)
        shares[holder + 1] = dict(reveal.shares)[target]
    return combine(shares, threshold)


def pair_keys(tap: Tap, parameters: Parameters, target: int, mask_seed: bytes) -> dict[int, bytes]:
    """All pairwise mask keys of `target`, from its mask seed and what was sealed to it, by the other client."""
    keys, transcript = {}, parameters.transcript()
    own = KeyPair(parameters.suite, mask_seed, Label.MASK_KEY)
    for other in set(parameters.cohort) - {target}:
        if target < other:
            secret = messages.pair_secret(mask_seed, transcript, 0, other)
        else:
            dealt = tap.said("sharing", other)
            assert isinstance(dealt, messages.Shares)
            bundle = next(one for one in dealt.bundles if one.recipient == target)
            secret = own.open(bundle.pair_secrets[0], messages.pair_info(transcript, 0, other, target))
        keys[other] = messages.pair_mask_key(secret, transcript, 0, target, other)
    return keys


def unmasked(
    tap: Tap,
    parameters: Parameters,
    target: int,
    pairs: Mapping[int, bytes],
    self_seeds: Iterable[bytes] = (),
) -> Floats:
    """`target`'s upload without these masks, read as a vector. pairs: keys by the other client."""
    spec = parameters.rounds[0]
    words = tap.words(target, spec.length, spec.width)
    own = [messages.self_mask_key(seed, parameters.transcript(), 0, target) for seed in self_seeds]
    add_keystreams(
        words,
        plus=[key for other, key in pairs.items() if other < target],
        minus=[key for other, key in pairs.items() if other > target] + own,
    )
    return np.asarray(decoded(words, spec.encoding(len(parameters.cohort))))
