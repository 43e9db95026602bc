"""How many small wrong changes to `crypto` and `protocol` do the tests notice?

    python tests/long/mutants.py [--package crypto|protocol] [--sample N --seed S] [--json FILE]

Each mutant runs in a fork of this process, which has loaded all libraries but ours: it imports one module with one
change and runs the tests that the table names, fast ones first, until one fails. Score: killed / (all − equivalent).
Equivalent mutants stand with their reasons in `equivalent.txt`. A mutant that does not come to an end is killed.
"""

import argparse
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from importlib.machinery import SourceFileLoader
from math import sqrt
from pathlib import Path
from types import CodeType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from rich.console import Console
from rich.progress import Progress

from long.mutations import Mutation, mutated, mutations

EQUIVALENT = Path(__file__).parent / "equivalent.txt"
CPU_SECONDS, WALL_SECONDS = 150, 900  # of one mutant
_SURVIVORS = "verification/test_survivors.py"

_MASKING = (
    "protocol/test_checks.py protocol/test_documented.py protocol/test_attacks.py "
    "protocol/test_secrets_stay_inside.py protocol/test_masked_sum.py protocol/test_any_bytes.py"
)
_ENCRYPTED = (
    "protocol/test_encrypted_checks.py protocol/test_documented.py protocol/test_encrypted_attacks.py "
    "protocol/test_encrypted_sum.py protocol/test_secrets_stay_inside.py"
)
# Which tests tell most of a file, the fast ones first; a folder's line serves its files that have none.
TESTS = {
    "crypto/bfv.py": "crypto/test_bfv.py crypto/test_joint_key.py protocol/test_encrypted_sum.py",
    "crypto/ckks.py": "crypto/test_ckks.py protocol/test_encrypted_sum.py",
    "crypto/fixed_point.py": "crypto/test_fixed_point.py crypto/test_bfv.py crypto/test_ckks.py protocol/test_checks.py",
    "crypto/hpke.py": "crypto/test_keys.py protocol/test_wire.py protocol/test_checks.py",
    "crypto/identity.py": "crypto/test_keys.py protocol/test_wire.py protocol/test_checks.py",
    "crypto/joint_key.py": "crypto/test_joint_key.py protocol/test_encrypted_checks.py protocol/test_encrypted_sum.py",
    "crypto/kdf.py": "crypto/test_keys.py protocol/test_documented.py protocol/test_checks.py",
    "crypto/key_pem.py": "crypto/test_key_pem.py protocol/test_key_file.py",
    "crypto/lattice.py": "crypto/test_lattice.py crypto/test_joint_key.py crypto/test_bfv.py protocol/test_encrypted_checks.py",
    "crypto/ntt.py": "crypto/test_ntt.py crypto/test_joint_key.py",
    "crypto/prg.py": "crypto/test_prg.py crypto/test_key_recovery.py protocol/test_masked_sum.py",
    "crypto/ring.py": "crypto/test_ring.py crypto/test_fixed_point.py crypto/test_lattice.py protocol/test_masked_sum.py",
    "crypto/seal.py": "crypto/test_bfv.py crypto/test_ckks.py crypto/test_tenseal_traps.py protocol/test_encrypted_sum.py",
    "crypto/shamir.py": "crypto/test_shamir.py protocol/test_masked_sum.py",
    "crypto/workers.py": "crypto/test_bfv.py protocol/test_encrypted_sum.py learning/test_encrypted.py",
    "protocol/driver.py": "protocol/test_masked_sum.py protocol/test_checks.py protocol/test_encrypted_sum.py",
    "protocol/explain.py": "protocol/test_explain.py simulations/test_cli_keys.py",
    "protocol/files.py": "protocol/test_files.py",
    "protocol/key_file.py": "protocol/test_key_file.py protocol/test_roster_file.py simulations/test_cli_keys.py",
    "protocol/ledger.py": "protocol/test_ledger.py protocol/test_checks.py",
    "protocol/parameters.py": "protocol/test_wire.py " + _MASKING + " protocol/test_encrypted_checks.py",
    "protocol/policy.py": "protocol/test_graph.py protocol/test_policy_file.py " + _MASKING,
    "protocol/policy_file.py": "protocol/test_policy_file.py simulations/test_cli_keys.py",
    "protocol/roster.py": "protocol/test_roster_file.py " + _MASKING,
    "protocol/roster_file.py": "protocol/test_roster_file.py simulations/test_cli_keys.py",
    "protocol/server.py": _MASKING + " protocol/test_encrypted_checks.py protocol/test_encrypted_attacks.py",
    "protocol/wire.py": "protocol/test_wire.py " + _MASKING + " protocol/test_encrypted_checks.py",
    "protocol/masking/graph.py": "protocol/test_graph.py " + _MASKING,
    "protocol/masking": _MASKING,
    "protocol/homomorphic": _ENCRYPTED,
}


def tests_of(file: str) -> list[str]:
    """The test files for a source file; without a line in the table, all that could tell."""
    named = TESTS.get(file) or TESTS.get(str(Path(file).parent))
    if not named:
        folders = (ROOT / "tests" / "crypto", ROOT / "tests" / "protocol")
        every = [str(path) for folder in folders for path in sorted(folder.glob("test_*.py"))]
        return [*every, str(ROOT / "tests/learning/test_encrypted.py")]
    return [str(ROOT / "tests" / name) for name in (_SURVIVORS, *named.split())]


def all_mutations(packages: Sequence[str]) -> list[Mutation]:
    """Of every file of the packages."""
    return [
        mutation
        for package in packages
        for path in sorted((ROOT / package).rglob("*.py"))
        for mutation in mutations(str(path.relative_to(ROOT)), path.read_text())
    ]


def equivalent() -> dict[str, str]:
    """The reasons of mutants that no test can notice, by their keys."""
    lines = EQUIVALENT.read_text().splitlines() if EQUIVALENT.exists() else []
    pairs = [line.rsplit(" :: ", 1) for line in lines if line and not line.startswith("#")]
    return {key: reason for key, reason in pairs}


# ---- one mutant --------------------------------------------------------------------------------------


def preload() -> None:
    """Everything that takes long to import and is not ours, before the forks."""
    import cryptography.hazmat.primitives.hpke
    import hypothesis
    import msgspec
    import numpy
    import pytest
    import scipy.stats
    import tenseal

    libraries = (cryptography, hypothesis, msgspec, numpy, pytest, scipy, tenseal)
    assert all(libraries)
    assert "secure_afl" not in sys.modules
    phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)  # no time is lost on short examples
    hypothesis.settings.register_profile(
        "mutants",
        deadline=None,
        database=None,
        phases=phases,
        suppress_health_check=list(hypothesis.HealthCheck),
    )


def run(code: CodeType | None, file: str, tests: Sequence[str], folder: str) -> str:
    """ "killed", "timeout" or "survived": the tests in a fork where `file` is this code; None leaves it as it is."""
    child = os.fork()
    if not child:
        _in_child(code, file, tests, folder)
    ends = time.monotonic() + WALL_SECONDS
    try:
        while time.monotonic() < ends:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                if os.WIFSIGNALED(status):
                    return "timeout" if os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL) else "killed"
                return "killed" if os.WEXITSTATUS(status) else "survived"
            time.sleep(0.02)
    except BaseException:
        _end(child)
        raise
    _end(child)
    return "timeout"


def _end(child: int) -> None:
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)


def _in_child(code: CodeType | None, file: str, tests: Sequence[str], folder: str) -> None:
    status = 3
    try:
        os.setpgid(0, 0)
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 5))
        output = os.open(os.path.join(folder, "output"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(ROOT)
        os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = folder
        _import_as(code, "secure_afl." + file.removesuffix(".py").removesuffix("/__init__").replace("/", "."))
        import pytest

        options = ["-x", "-q", "-p", "no:cacheprovider", "--tb=short", "--hypothesis-profile=mutants"]
        options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of what was loaded before
        status = int(pytest.main([*options, *tests]))
        sys.stdout.flush()
    except BaseException:  # noqa: BLE001  # nothing may leave the fork
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(status)


def _import_as(code: CodeType | None, module: str) -> None:
    plain: Callable[[Any, str], CodeType | None] = SourceFileLoader.get_code

    def get_code(self: Any, fullname: str) -> CodeType | None:
        return code if code is not None and fullname == module else plain(self, fullname)

    SourceFileLoader.get_code = get_code  # type: ignore[method-assign]


# ---- a run -------------------------------------------------------------------------------------------


def interval(killed: int, of: int) -> tuple[float, float]:
    """Wilson's 95 % interval for a share."""
    if not of:
        return 0.0, 1.0
    z, share = 1.96, killed / of
    middle = (share + z * z / (2 * of)) / (1 + z * z / of)
    half = z * sqrt(share * (1 - share) / of + z * z / (4 * of * of)) / (1 + z * z / of)
    return max(0.0, middle - half), min(1.0, middle + half)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--package", choices=["crypto", "protocol"])
    parser.add_argument("--sample", type=int, help="so many, drawn by the seed; all without it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="begin no further mutant after so long"
    )
    parser.add_argument(
        "--again", type=Path, help="only what this JSON file lists as survivors, for a second score"
    )
    parser.add_argument("--unchecked", action="store_true", help="without first seeing all tests pass")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    console = Console()
    every = all_mutations([arguments.package] if arguments.package else ["crypto", "protocol"])
    drawn = list(every)
    random.Random(arguments.seed).shuffle(drawn)
    drawn = drawn[: arguments.sample]
    earlier: dict[tuple[str, int], str] = {}
    if arguments.again:
        rows = json.loads(arguments.again.read_text())["mutants"]
        earlier = {(row["file"], row["number"]): row["result"] for row in rows}
        drawn = [one for one in drawn if (one.file, one.number) in earlier]
    preload()
    reasons, results = equivalent(), dict[Mutation, str]()
    started = time.monotonic()
    with Progress(console=console, transient=True) as progress, tempfile.TemporaryDirectory() as folder:
        files = [] if arguments.unchecked else sorted({name for one in drawn for name in tests_of(one.file)})
        task = progress.add_task("", total=len(drawn) + len(files))
        for name in files:
            progress.update(task, description=f"without a mutant: {Path(name).name}")
            if run(None, "", [name], folder) != "survived":
                console.print(f"{name} fails without a mutant:", Path(folder, "output").read_text()[-3000:])
                return 1
            progress.advance(task)
        for one in drawn:
            if time.monotonic() - started > arguments.seconds:
                break
            progress.update(task, description=f"{one.file}:{one.line} {one.what}"[:70])
            if one.key in reasons:
                results[one] = "equivalent"
            elif earlier.get((one.file, one.number), "survived") in ("killed", "timeout"):
                results[one] = earlier[one.file, one.number]
            else:
                results[one] = _result(one, folder)
            progress.advance(task)
            if arguments.json:
                arguments.json.write_text(_as_json(results))
    _tell(console, every, results, time.monotonic() - started)
    return 0


def _result(one: Mutation, folder: str) -> str:
    source = (ROOT / one.file).read_text()
    code = compile(mutated(source, one.number), str(ROOT / "secure_afl" / one.file), "exec")
    return run(code, one.file, tests_of(one.file), folder)


def _tell(console: Console, every: Sequence[Mutation], results: dict[Mutation, str], seconds: float) -> None:
    counts = {
        kind: list(results.values()).count(kind) for kind in ("killed", "timeout", "survived", "equivalent")
    }
    killed, of = counts["killed"] + counts["timeout"], len(results) - counts["equivalent"]
    low, high = interval(killed, of)
    for one, result in results.items():
        if result == "survived":
            print(f"{one.file}:{one.line}: {one.text}\n    {one.what}")
    console.print(
        f"{len(results)} of {len(every):,} mutants in {seconds:.0f} s: {killed} killed "
        f"({counts['timeout']} by time), {counts['survived']} survived, {counts['equivalent']} equivalent"
    )
    console.print(f"score {killed / max(1, of):.1%}, 95 % interval {low:.1%} to {high:.1%}")


def _as_json(results: dict[Mutation, str]) -> str:
    rows = [{**vars(one), "key": one.key, "result": result} for one, result in results.items()]
    return json.dumps({"mutants": rows}, indent=2) + "\n"


if __name__ == "__main__":
    sys.exit(main())
