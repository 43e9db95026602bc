"""Who masks with whom, and what servers choose (docs/protocol.md §6)."""

from fractions import Fraction
from math import ceil, comb, floor

from reference.kdf import digest
from reference.masks import stream
from reference.refused import Refused, need
from reference.schema import Fields


def neighbours(parameters: Fields, transcript: bytes, place: int) -> list[int]:
    """The neighbours of a client, increasing."""
    cohort, degree = parameters["cohort"], parameters["degree"]
    if degree == len(cohort) - 1:
        return [other for other in cohort if other != place]
    drawn = stream(digest("GRAPH", transcript))(len(cohort))
    circle = [one for _, one in sorted(zip(drawn, cohort, strict=True))]
    at, reach = circle.index(place), degree // 2
    return sorted(circle[(at + step) % len(circle)] for step in range(-reach, reach + 1) if step)


def least_threshold(profile: str, n: int, degree: int) -> int:
    return 2 * n // 3 + 1 if profile == "active" else (degree + 1) // 2 + 1


def chance(marked: int, drawn: int, population: int, hits: range) -> Fraction:
    """P[H(marked, drawn) in hits; population]."""
    marked = max(0, min(marked, population))
    ways = sum(comb(marked, x) * comb(population - marked, drawn - x) for x in hits if x <= drawn)
    return Fraction(ways, comb(population, drawn))


def exposure(profile: str, n: int, degree: int, t: int, c: int, g: int, rounds: int = 1) -> Fraction:
    if degree == n - 1:
        return Fraction(c >= (2 * t - n if profile == "active" else t))
    opened = chance(c, degree, n - 1, range(t, degree + 1))
    torn = chance(c + g, degree // 2, n, range(degree // 2, degree // 2 + 1))
    return min(Fraction(1), n * (opened + rounds * torn))


def loss(n: int, degree: int, t: int, g: int) -> Fraction:
    return min(Fraction(1), n * chance(n - 1 - g, degree, n - 1, range(t)))


def choose(n: int, profile: str, corrupted: int, dropout: float, rounds: int = 1) -> tuple[int, int]:
    """Degree and threshold."""
    gone = ceil(dropout * n)
    secure, correct = Fraction(1, 2**40), Fraction(1, 2**20)
    if profile == "semi-honest":
        for degree in range(2, n - 1, 2):
            for t in range(least_threshold(profile, n, degree), degree + 1):
                if loss(n, degree, t, gone) > correct:
                    break  # and more so for a larger t
                if exposure(profile, n, degree, t, corrupted, gone, rounds) <= secure:
                    return degree, t
    t = least_threshold(profile, n, n - 1)
    need(n - floor(dropout * n) >= t, "enough survivors")
    if exposure(profile, n, n - 1, t, corrupted, gone, rounds) > secure:
        raise Refused("expected fewer corrupted clients")
    return n - 1, t
