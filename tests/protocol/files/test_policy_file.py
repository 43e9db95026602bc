"""Policy files: every key reaches the policy, nothing else is taken, and what is wrong is named."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from worlds.strategies import policies

from secure_afl.crypto.hpke import Suite
from secure_afl.protocol.files import policy as policy_file
from secure_afl.protocol.session.errors import FileError, PolicyError
from secure_afl.protocol.session.parameters import Profile
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.session.profile import Trust, Verify

# Another value than the default's, and how it is written.
OTHERS: dict[str, tuple[Any, str]] = {
    "minimum_honest": (5, "5"),
    "corrupted": (0.25, "0.25"),
    "dropout": (0.0, "0"),
    "backends": (frozenset({"bfv", "plain"}), '["plain", "bfv"]'),
    "profiles": (frozenset(Profile), '["semi-honest", "active"]'),
    "suites": (frozenset({Suite.X25519}), '["x25519"]'),
    "verify": (frozenset(Verify), '["tags", "replay", "none"]'),
    "trusts_reports": (Trust.VERIFIED, '"verified"'),
    "guards_categories": (True, "true"),
    "budget_epsilon": (4.0, "4.0"),
    "budget_delta": (1e-5, "1e-5"),
}


@given(policies)
def test_what_is_written_is_read_back(policy: Policy) -> None:
    assume(policy.corrupted + policy.dropout < 1)
    assert policy_file.parse(policy_file.text(policy)) == policy


def test_every_key_is_a_field_of_the_policy_and_reaches_it() -> None:
    assert list(policy_file._FIELDS) == [field.name for field in fields(Policy)] == list(OTHERS)
    for key, (value, written) in OTHERS.items():
        assert value != getattr(Policy(), key)
        assert policy_file.parse(f"{key} = {written}") == replace(Policy(), **{key: value})


def test_what_is_left_out_is_the_default() -> None:
    assert policy_file.parse("") == policy_file.parse(policy_file.text(Policy())) == Policy()


def test_every_line_is_explained() -> None:
    lines = policy_file.text(Policy()).splitlines()
    for number, line in enumerate(lines):
        if line and not line.startswith("#"):
            assert lines[number - 1].startswith("# "), line
        assert len(line) <= 120


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("minimum_honest = 1", "minimum_honest: expected a whole number of at least 2, got 1"),
        ("minimum_honest = 2.0", r"minimum_honest: expected a whole number of at least 2, got 2\.0"),
        ("minimum_honest = true", "minimum_honest: expected a whole number of at least 2, got True"),
        ("corrupted = 1", "corrupted: expected a number from 0 to below 1, got 1"),
        ("corrupted = -0.1", r"corrupted: expected a number from 0 to below 1, got -0\.1"),
        ("corrupted = nan", "corrupted: expected a number from 0 to below 1, got nan"),
        ("corrupted = false", "corrupted: expected a number from 0 to below 1, got False"),
        ("corrupted = '10%'", "corrupted: expected a number from 0 to below 1, got '10%'"),
        ("dropout = inf", "dropout: expected a number from 0 to below 1, got inf"),
        (f"dropout = 1{400 * '0'}", "dropout: expected a number from 0 to below 1, got 1000"),
        ("backends = 'mask'", "backends: expected a list of one or more of \"mask\", .* got 'mask'"),
        ("backends = []", r"backends: expected a list of one or more of .* got \[\]"),
        ("backends = ['mask', 'bvf']", r"backends: expected a list .* got \['mask', 'bvf'\]"),
        ("backends = [['mask']]", r"backends: expected a list .* got \[\['mask'\]\]"),
        ("[backends]\nmask = true", r"backends: expected a list .* got \{'mask': True\}"),
        ("profiles = ['kind']", r'profiles: expected a list of one or more of "semi-honest", "active", got'),
        ("profiles = [1]", "profiles: expected a list"),
        (
            "suites = ['HYBRID']",
            r'suites: expected a list of one or more of "hybrid", "x25519", got \[\'HYBRID\'\]',
        ),
        ("trusts_reports = true", 'trusts_reports: expected "none", "verified" .* or "any" .* got True'),
        ("trust_reports = true", "expected keys from minimum_honest, .* got 'trust_reports'"),
        ("[policy]\ncorrupted = 0.1", "expected keys from .* got 'policy'"),
        (
            "corrupted = 0.6\ndropout = 0.4",
            r"corrupted and dropout: expected less than 1 together, got 0\.6 and 0\.4",
        ),
        ("dropout = 0.1\ndropout = 0.2", "expected TOML, but the text does not parse: Cannot overwrite"),
        ("corrupted 0.1", "expected TOML, but the text does not parse: .*line 1"),
    ],
)
def test_one_error_names_the_key_what_was_expected_and_what_came(
    tmp_path: Path, content: str, what: str
) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(content)
    with pytest.raises(FileError, match=what) as caught:
        policy_file.read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        ({"backends": frozenset({"bvf"})}, "expected backends from mask, .* got 'bvf'"),
        ({"backends": frozenset()}, "expected at least one entry in backends"),
        ({"profiles": frozenset()}, "expected at least one entry in profiles"),
        ({"suites": frozenset()}, "expected at least one entry in suites"),
    ],
)
def test_a_policy_that_means_nothing_does_not_exist(wrong: dict[str, Any], what: str) -> None:
    with pytest.raises(PolicyError, match=what):
        Policy(**wrong)
