"""The five folders are one import package, complete, layered, and light where it must be."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOP = {
    "secure_afl": "secure_afl",
    "crypto": "secure_afl.crypto",
    "protocol": "secure_afl.protocol",
    "simulations": "secure_afl.simulations",
}
APP = "secure_afl.apps.flower"
# Lowest first; a folder may import from those before it.
LAYERS = ("crypto", "protocol", "secure_afl", "simulations")


def sources(folder: str) -> list[Path]:
    """Python files of a root folder; `secure_afl/` shows the other three through links, which do not count."""
    links = {ROOT / "secure_afl" / name for name in LAYERS}
    return [path for path in (ROOT / folder).rglob("*.py") if not links & set(path.parents)]


def test_every_package_is_listed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {
        ".".join([TOP[folder], *path.parent.relative_to(ROOT / folder).parts])
        for folder in TOP
        for path in sources(folder)
        if path.name == "__init__.py"
    }
    assert found | {APP} == set(listed)
    assert len(listed) == len(found) + 1


def test_the_app_that_flower_runs_is_installed_with_us() -> None:
    """`secure-afl flower demo` ships it, also where there is no checkout."""
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folder = ROOT / setup["package-dir"][APP]
    installed = {path for pattern in setup["package-data"][APP] for path in folder.glob(pattern)}
    ours = {path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert installed == ours
    assert folder / "pyproject.toml" in ours


def test_the_vectors_are_installed_with_us() -> None:
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folder = ROOT / "protocol"
    patterns = setup["package-data"]["secure_afl.protocol"]
    installed = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    assert installed == {path for path in (folder / "vectors").rglob("*") if path.is_file()}
    assert {folder / "vectors" / name for name in ("README.md", "schema.json", "kdf.json")} <= installed


def test_every_folder_with_code_is_a_package() -> None:
    for folder in TOP:
        for path in sources(folder):
            assert (path.parent / "__init__.py").exists(), path


def layer(module: str) -> str | None:
    parts = module.split(".")
    if parts[0] != "secure_afl":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in LAYERS else "secure_afl"


@pytest.mark.parametrize("folder", LAYERS)
def test_imports_point_one_way(folder: str) -> None:
    allowed = LAYERS[: LAYERS.index(folder) + 1]
    for path in sources(folder):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: import absolutely"
                modules = [node.module or ""]
            for module in modules:
                assert layer(module) in (None, *allowed), f"{path} imports {module}"


# The same inside a folder: a room may import from those before it, and from files beside the rooms.
ROOMS = {
    "protocol": ("session", "masking", "homomorphic", "files", "audit", "durable", "transport"),
    "secure_afl": ("analytic", "sums", "models", "tables", "node", "federation", "cli"),
}


def room(module: str, folder: str) -> str | None:
    parts = module.removeprefix(TOP[folder]).lstrip(".").split(".")
    return parts[0] if layer(module) == folder and parts[0] in ROOMS[folder] else None


@pytest.mark.slow
@pytest.mark.parametrize("folder", ROOMS)
def test_imports_point_one_way_inside_a_folder(folder: str) -> None:
    rooms, upward = ROOMS[folder], set()
    for path in sources(folder):
        home = path.relative_to(ROOT / folder).parts[0]
        if home not in rooms:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            found = {name for name in (room(module, folder) for module in modules) if name}
            above = {name for name in found if rooms.index(name) > rooms.index(home)}
            upward |= {(str(path.relative_to(ROOT)), name) for name in above}
    assert not upward


def test_no_folder_holds_more_than_a_reader_can_survey() -> None:
    for folder in TOP:
        for place in {path.parent for path in sources(folder)}:
            files = [path for path in place.glob("*.py") if path.name != "__init__.py"]
            assert len(files) <= 14, f"{place.relative_to(ROOT)}: divide it"


def test_no_folder_of_tests_hides_the_package() -> None:
    """`tests/` is on the path of tests: what mirrors `secure_afl/` are folders of its rooms."""
    assert not (ROOT / "tests" / "secure_afl").exists()


def test_flower_is_known_in_few_places_and_its_app_ships_no_code_of_its_own() -> None:
    knows = {path for folder in LAYERS for path in sources(folder) if imported(path) & {"flwr"}}
    # The last is where Flower's own secure aggregation is measured beside ours.
    named = (
        "secure_afl/node/flower_app.py",
        "simulations/network/batches.py",
        "simulations/network/many_nodes.py",
        "simulations/overhead/peers/flower.py",
    )
    apps = {ROOT / name for name in named}
    assert apps <= knows
    assert {path.parent for path in knows - apps} == {ROOT / "protocol/transport/flower"}
    for path in (ROOT / "apps").rglob("*.py"):
        encoding = [node for node in ast.parse(path.read_text()).body if not isinstance(node, ast.Expr)]
        assert imported(path) <= {"secure_afl"}
        assert [type(node) for node in encoding] in ([], [ast.ImportFrom, ast.Assign]), path


def imported(path: Path) -> set[str]:
    """The first names of the packages that a file imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
    return found


def loaded_by(statement: str) -> set[str]:
    script = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_a_server_is_a_light_process() -> None:
    loaded = loaded_by("import secure_afl.protocol")
    assert not loaded & {"torch", "tenseal", "sklearn", "scipy", "numpy"}
    loaded = loaded_by("import secure_afl.protocol.masking.server, secure_afl.protocol.masking.client")
    assert not loaded & {"torch", "tenseal", "sklearn", "typer", "rich"}
    assert not [module for module in loaded if layer(module) == "simulations"]


# What a command may load of others' packages before it has something to do. An operator's commands answer at once.
OPERATORS = {"click", "cryptography", "msgspec", "rich", "shellingham", "typer", "typing_extensions"}
OPERATORS |= {"attr", "markdown_it", "mdurl", "pygments"}  # what rich loads to print help


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "more"),
    [
        (["--help"], set()),
        (["run", "--help"], set()),
        (["overhead", "--help"], set()),
        (["experiment", "headline", "--help"], set()),
        (["flower", "demo", "--help"], set()),
        (["keys", "new", "A"], set()),
        (["keys", "show", "A.pub"], set()),
        (["policy", "new", "policy.toml"], {"numpy"}),
        (["policy", "explain", "policy.toml", "--clients", "9"], {"numpy"}),
        (["audit", "verify", "a.jsonl"], {"numpy"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_operators_command_loads_little(command: list[str], more: set[str], tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("{}\n")
    for before in (["keys", "new", "A"], ["policy", "new", "policy.toml"]):
        if before[:2] != command[:2]:
            runner = f"from secure_afl.simulations.cli.main import app; app({before})"
            subprocess.run([sys.executable, "-c", runner], cwd=tmp_path, capture_output=True, check=True)
    script = f"""
import sys
from importlib.metadata import packages_distributions
from secure_afl.simulations.cli.main import app
try:
    app({command})
except SystemExit:
    pass
known = packages_distributions()
print("loaded:", *{{name.split(".")[0] for name in sys.modules}} & known.keys())
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.splitlines()[-1].split()[1:])
    assert {name for name in loaded if name.isidentifier() and not name.startswith("_")} <= {
        "secure_afl",
        *OPERATORS,
        *more,
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "module", ["homomorphic.server", "homomorphic.client", "homomorphic.holder", "transport.encrypted"]
)
def test_encrypted_sums_load_tenseal_with_the_first_key_and_a_server_never(module: str) -> None:
    loaded = loaded_by(f"import secure_afl.protocol.{module}")
    assert not loaded & {"torch", "tenseal", "sklearn", "typer", "rich"}
    assert not [name for name in loaded - {"secure_afl"} if layer(name) in ("secure_afl", "simulations")]


def test_an_aggregator_of_encrypted_sums_loads_tenseal_with_the_first_key() -> None:
    assert not loaded_by("from secure_afl import EncryptedAggregator; EncryptedAggregator('bfv')") & {
        "torch",
        "tenseal",
    }


def test_public_names_are_there() -> None:
    import secure_afl

    for name in secure_afl._HOMES:
        assert getattr(secure_afl, name).__name__ == name
        assert name in dir(secure_afl)
    for name, home in secure_afl._MODULES.items():
        assert getattr(secure_afl, name).__name__ == f"secure_afl.{home}"
        assert name in dir(secure_afl)
    with pytest.raises(AttributeError, match="no attribute 'Sum'"):
        secure_afl.Sum  # noqa: B018


@pytest.mark.parametrize("folder", ["crypto", "protocol"])
def test_secrets_come_from_the_operating_system(folder: str) -> None:
    for path in sources(folder):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] + [getattr(node, "module", "") or ""]
                assert "random" not in names, path
            if isinstance(node, ast.Attribute):
                assert node.attr not in ("random", "default_rng", "RandomState"), path
