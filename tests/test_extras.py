"""A small installation: what works without optional packages, and what a missing one says."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import packages_distributions

import pytest
from test_packaging import LAYERS, ROOT, sources

from secure_afl.crypto.errors import EXTRAS, MissingExtraError, missing, optional

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OWN = {"secure_afl", "tests", "pytest"}  # the last is of `secure_afl.testing.plugin`, for those who have it


def named(requirements: Iterable[str]) -> set[str]:
    """Distributions of requirements, without versions and extras."""
    return {
        requirement.partition("[")[0].partition(">")[0].lower().replace("_", "-")
        for requirement in requirements
    }


@pytest.mark.long
def test_each_package_that_is_imported_is_a_dependency_or_in_the_extra_that_errors_name() -> None:
    base, extras = named(PROJECT["dependencies"]), PROJECT["optional-dependencies"]
    distributions = packages_distributions()
    for path in (path for folder in LAYERS for path in sources(folder)):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [node.module or ""]
            else:
                continue
            for module in {name.partition(".")[0] for name in modules} - sys.stdlib_module_names - OWN:
                if module in EXTRAS:
                    assert EXTRAS[module] in extras, module
                else:
                    assert base & {name.lower() for name in distributions.get(module, [module])}, (
                        path,
                        module,
                    )


def test_extras_hold_what_errors_say() -> None:
    extras = PROJECT["optional-dependencies"]
    distributions = {
        **packages_distributions(),
        "ray": ["flwr"],
        "datasets": ["flwr-datasets"],
        "declearn": ["declearn"],
    }
    for module, extra in EXTRAS.items():
        assert named(distributions.get(module, [module.replace("_", "-")])) & named(extras[extra]), module


@pytest.mark.parametrize("package", EXTRAS)
def test_a_missing_package_is_named_with_its_extra(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    expected = rf"{package}, .*secure-afl\[{EXTRAS[package]}\]"
    with pytest.raises(MissingExtraError, match=expected) as raised, optional():
        __import__(package)
    assert raised.value.name == package
    assert isinstance(raised.value, ModuleNotFoundError)


def test_other_missing_packages_are_not_ours_to_explain() -> None:
    with pytest.raises(ModuleNotFoundError) as raised, optional():
        import no_such_package  # type: ignore[import-not-found]  # noqa: F401
    assert not isinstance(raised.value, MissingExtraError)
    with pytest.raises(MissingExtraError, match=r"flwr.*simulation"), optional(), optional():
        raise missing("flwr", "simulation")


def without(packages: Iterable[str], statement: str) -> subprocess.CompletedProcess[str]:
    script = f"""
import sys
class Absent:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in {sorted(packages)}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
{statement}
"""
    return subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )


def command(*arguments: str) -> str:
    return f"from secure_afl.simulations.cli.main import app; app({list(arguments)})"


@pytest.mark.long
def test_a_run_of_a_ridge_model_needs_no_extra() -> None:
    done = without(EXTRAS, command("run", "--data", "digits", "--clients", "5"))
    assert done.returncode == 0, done.stderr
    assert "equal, bit for bit" in done.stdout


@pytest.mark.long
@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (("run",), "tables"),
        (("run", "--data", "digits", "--backend", "bfv"), "he"),
        (("run", "--data", "digits", "--model", "fedacnnl"), "torch"),
        (("run", "--data", "digits", "--epsilon", "1"), "privacy"),
        (("run", "--data", "digits", "--html", "page.html"), "reports"),
        (("experiment", "headline"), "torch"),
        (("bench", "homomorphic"), "he"),
        (("overhead",), "reports"),
    ],
)
def test_a_command_says_which_extra_it_needs(arguments: tuple[str, ...], extra: str) -> None:
    done = without(EXTRAS, command(*arguments))
    assert done.returncode == 1
    assert f"pip install 'secure-afl[{extra}]'" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


@pytest.mark.long
def test_a_federation_of_ridge_models_needs_neither_torch_nor_seal() -> None:
    """Parties and server, over the folders of a deployment; sites read their tables with pyarrow."""
    heavy = EXTRAS.keys() - {"hypothesis", "pyarrow", "python_calamine"}
    test = "tests/node/test_codebooks.py::test_a_session_over_raw_tables_is_that_of_one_process"
    done = without(heavy, f"import pytest; sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', {test!r}]))")
    assert done.returncode == 0, done.stdout[-2000:]
