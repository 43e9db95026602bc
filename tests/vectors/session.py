"""One small masked session with fixed secrets: what its messages are, made with the reference."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from reference import derivations, fixedpoint, frames, hpke, kdf, masks, messagepack, shamir, tags

from vectors.cases import secret

N, T = 4, 3


@dataclass(frozen=True)
class Session:
    """Four clients, one round, the active profile. With replay only `evidence` has vectors."""

    suite: str
    verify: str = "tags"

    def secret(self, name: str) -> bytes:
        return secret(f"{self.suite} {name}")

    @cached_property
    def members(self) -> list[tuple[str, bytes]]:
        return [(f"site-{i}", frames.public_key(self.secret(f"identity {i}"))) for i in range(N)]

    @cached_property
    def parameters(self) -> bytes:
        head = ["parameters", "secure-afl/2", self.secret("session"), "active", self.verify, self.suite]
        round_ = ["round", "sum 0", 5, 22, 419430400, 4, 0, b""]
        roster = derivations.roster_digest(self.members)
        return messagepack.pack([*head, roster, [*range(N)], N - 1, T, [round_]])

    @cached_property
    def transcript(self) -> bytes:
        return kdf.digest("TRANSCRIPT", self.parameters)

    def keys(self, place: int, what: str) -> hpke.KeyPair:
        """what: channel or mask."""
        return hpke.KeyPair(self.suite, self.secret(f"{what} seed {place}"), f"{what.upper()}_KEY")

    def advertise(self, place: int) -> list[Any]:
        commitment = tags.commitment(self.transcript, place, self.secret(f"tag secret {place}"))
        return [
            "advertise",
            self.keys(place, "channel").public,
            [self.keys(place, "mask").public],
            commitment,
        ]

    def frame(self, place: int, question: bytes, message: list[Any]) -> bytes:
        private = self.secret(f"identity {place}")
        return frames.sign_frame(private, self.transcript, question, place, messagepack.pack(message))

    @cached_property
    def directory(self) -> list[Any]:
        said = [[place, self.frame(place, self.parameters, self.advertise(place))] for place in range(N)]
        return ["directory", self.transcript, said]

    def dealt(self, place: int, what: str) -> dict[int, bytes]:
        """Shares of a client's mask seed or self seed, by point."""
        draws = [int.from_bytes(self.secret(f"{what} {place} {i}"), "big") for i in range(T - 1)]
        return shamir.split(self.secret(f"{what} seed {place}"), T, [i + 1 for i in range(N)], draws)

    def bundle(self, dealer: int, holder: int) -> list[Any]:
        shares = [self.dealt(dealer, what)[holder + 1] for what in ("mask", "self")]
        held, secrets = list(shares), []
        if dealer < holder:
            seed = self.secret(f"mask seed {dealer}")
            held.append(derivations.pair_secret(seed, self.transcript, 0, holder))
            info = derivations.pair_info(self.transcript, 0, dealer, holder)
            secrets = [self.sealed(self.keys(holder, "mask").public, held[2], info)]
        info = derivations.shares_info(self.transcript, dealer, holder)
        plain = b"".join(shares) + self.secret(f"tag secret {dealer}")
        sealed = self.sealed(self.keys(holder, "channel").public, plain, info)
        commitments = [
            derivations.commitment(self.transcript, 0, dealer, holder, kind, one)
            for kind, one in enumerate(held)
        ]
        parts = (sealed, b"".join(secrets), b"".join(commitments))
        places = (self.transcript, kdf.u64(dealer), kdf.u64(holder))
        signature = frames.sign(self.secret(f"identity {dealer}"), "BUNDLE_SIGNATURE", *places, *parts)
        return ["bundle", holder, sealed, secrets, [commitments], signature]

    def sealed(self, key: bytes, plain: bytes, info: bytes) -> bytes:
        return hpke.seal(self.suite, key, plain, info, self.secret("seal " + info.hex()))

    def shares(self, place: int) -> list[Any]:
        seed, share = self.secret(f"self seed {place}"), self.dealt(place, "self")[place + 1]
        own = [
            derivations.self_commitment(self.transcript, 0, place, seed),
            derivations.commitment(self.transcript, 0, place, place, 1, share),
        ]
        return ["shares", [own], [self.bundle(place, other) for other in range(N) if other != place]]

    # ---- a replay --------------------------------------------------------------------------------

    def pair(self, one: int, other: int) -> bytes:
        """The pair secret of two clients."""
        seed = self.secret(f"mask seed {min(one, other)}")
        return derivations.pair_secret(seed, self.transcript, 0, max(one, other))

    def upload(self, place: int, values: list[int]) -> list[Any]:
        """Of a client's vector, in units; all four take part."""
        seed, pairs = (
            self.secret(f"self seed {place}"),
            {o: self.pair(place, o) for o in range(N) if o != place},
        )
        key = {o: derivations.pair_mask_key(one, self.transcript, 0, place, o) for o, one in pairs.items()}
        plus = [derivations.self_mask_key(seed, self.transcript, 0, place)]
        plus += [one for other, one in key.items() if other > place]
        minus = [one for other, one in key.items() if other < place]
        words = masks.masked([value % 2**32 for value in values], plus, minus, 0, 4)
        proof = derivations.mask_commitments(self.transcript, 0, place, seed, pairs)
        return ["upload", 0, fixedpoint.pack(words, 4), proof]

    def evidence(self, vectors: dict[int, list[int]]) -> list[Any]:
        """Of the sum of these survivors' vectors."""
        question = messagepack.pack(["sum request", self.transcript, 0, [*range(N)]])
        uploads = [(place, self.upload(place, values)) for place, values in vectors.items()]
        roots = [frames.root(messagepack.pack(message)) for _, message in uploads]
        directory, survivors = self.secret("directory"), [*vectors]
        view = derivations.consent_parts(self.transcript, directory, 0, [*range(N)], survivors, roots)
        votes = []
        for place, root in zip(survivors, roots, strict=True):
            said = (root, b"", self.secret(f"line {place}"))
            signature = frames.sign(self.secret(f"identity {place}"), "CONSENT_SIGNATURE", *view, *said)
            votes.append([place, ["vote", *said, signature]])
        return [
            "evidence",
            self.transcript,
            0,
            directory,
            [*range(N)],
            votes,
            [[place, self.frame(place, question, message)] for place, message in uploads],
            [[place, self.secret(f"self seed {place}")] for place in survivors],
            [[d, [self.pair(d, s) for s in survivors]] for d in range(N) if d not in survivors],
        ]
