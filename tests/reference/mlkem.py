"""ML-KEM-768 encapsulation with given randomness (FIPS 203): what `cryptography` only does at random.

Vectors need it to seal reproducibly. Decapsulation is `cryptography`'s.
"""

import hashlib

Q, K = 3329, 3
Polynomial = list[int]


def reversed7(i: int) -> int:
    return int(f"{i:07b}"[::-1], 2)


ZETAS = [pow(17, reversed7(i), Q) for i in range(128)]
GAMMAS = [pow(17, 2 * reversed7(i) + 1, Q) for i in range(128)]


def encapsulate(key: bytes, message: bytes) -> tuple[bytes, bytes]:
    """The shared secret and the ciphertext (FIPS 203, algorithms 17 and 14)."""
    both = hashlib.sha3_512(message + hashlib.sha3_256(key).digest()).digest()
    shared, seed = both[:32], both[32:]
    t = [decode(key[384 * i : 384 * (i + 1)], 12) for i in range(K)]
    noise = [binomial(hashlib.shake_256(seed + bytes([n])).digest(128)) for n in range(2 * K + 1)]
    y = [forward(one) for one in noise[:K]]
    parts = []
    for i in range(K):
        column = [uniform(key[384 * K :] + bytes([i, j])) for j in range(K)]
        parts.append(encode(compressed(add(inverse(inner(column, y)), noise[K + i]), 10), 10))
    bits = [bit * (Q + 1) // 2 for bit in decode(message, 1)]
    v = add(add(inverse(inner(t, y)), noise[2 * K]), bits)
    return shared, b"".join(parts) + encode(compressed(v, 4), 4)


def decode(data: bytes, bits: int) -> Polynomial:
    number = int.from_bytes(data, "little")
    return [number >> bits * i & (1 << bits) - 1 for i in range(256)]


def encode(values: Polynomial, bits: int) -> bytes:
    return sum(value << bits * i for i, value in enumerate(values)).to_bytes(32 * bits, "little")


def compressed(values: Polynomial, bits: int) -> Polynomial:
    return [((value << bits) + Q // 2) // Q % 2**bits for value in values]


def binomial(data: bytes) -> Polynomial:
    """Centred binomial of two bits less two bits."""
    bits = [byte >> i & 1 for byte in data for i in range(8)]
    return [(bits[i] + bits[i + 1] - bits[i + 2] - bits[i + 3]) % Q for i in range(0, 1024, 4)]


def uniform(seed: bytes) -> Polynomial:
    """An entry of the matrix, transformed."""
    raw = hashlib.shake_128(seed).digest(3 * 1024)
    values = []
    for a, b, c in zip(raw[::3], raw[1::3], raw[2::3], strict=True):
        values += [one for one in (a + 256 * (b % 16), b // 16 + 16 * c) if one < Q]
    return values[:256]


def add(one: Polynomial, other: Polynomial) -> Polynomial:
    return [(a + b) % Q for a, b in zip(one, other, strict=True)]


def forward(values: Polynomial) -> Polynomial:
    f, i, length = list(values), 1, 128
    while length >= 2:
        for start in range(0, 256, 2 * length):
            for j in range(start, start + length):
                product = ZETAS[i] * f[j + length]
                f[j], f[j + length] = (f[j] + product) % Q, (f[j] - product) % Q
            i += 1
        length //= 2
    return f


def inverse(values: Polynomial) -> Polynomial:
    f, i, length = list(values), 127, 2
    while length <= 128:
        for start in range(0, 256, 2 * length):
            for j in range(start, start + length):
                f[j], f[j + length] = (f[j] + f[j + length]) % Q, ZETAS[i] * (f[j + length] - f[j]) % Q
            i -= 1
        length *= 2
    return [one * 3303 % Q for one in f]


def inner(one: list[Polynomial], other: list[Polynomial]) -> Polynomial:
    """The sum of products of transformed polynomials."""
    total = [0] * 256
    for f, g in zip(one, other, strict=True):
        for i, gamma in enumerate(GAMMAS):
            a, b, c, d = f[2 * i], f[2 * i + 1], g[2 * i], g[2 * i + 1]
            total[2 * i] += a * c + b * d * gamma
            total[2 * i + 1] += a * d + b * c
    return [value % Q for value in total]
