"""Who may import whom, and what an import may cost. Checked on the source, and in a fresh interpreter."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("lbm", "rvdflow", "evaluation")
# The dataset format and the behaviour of the command line; none of these needs numba.
SHARED = {"lbm.dataset", "lbm.errors", "lbm.console", "lbm.settings"}
HEAVY = {
    "torch",
    "numba",
    "matplotlib",
    "xarray",
    "zarr",
    "dask",
    "netCDF4",
    "lpips",
    "properscoring",
    "scipy",
    "pandas",
    "av",
    "h5py",
}
ALLOWED = {
    "lbm": {"numpy", "numba", "llvmlite", "xarray", "zarr", "numcodecs", "google_crc32c", "dask", "PIL", "matplotlib",
            "typer", "rich", "pydantic", "pydantic_core", "click", "netCDF4", "distributed"},
    "evaluation": {"numpy", "numba", "xarray", "zarr", "dask", "matplotlib", "PIL"},
    "rvdflow": {"numpy", "torch", "xarray", "zarr", "dask", "distributed", "typer", "rich", "pydantic",
                "pydantic_core", "lbm", "evaluation", "PIL", "matplotlib", "safetensors", "tensorboard",
                "av", "h5py", "google_crc32c"},
}  # fmt: skip


NETWORKS = {"lpips.py", "fvd.py", "i3d.py", "weights.py"}  # of evaluation: these alone may import torch


def _imports(path: Path) -> set[str]:
    """Dotted names of everything a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names if node.module in PACKAGES}
    return found


def _sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_only_what_the_architecture_allows(package):
    sources = _sources(package)
    assert sources
    wrong = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in sources
        for name in _imports(path)
        if name.split(".")[0] not in sys.stdlib_module_names | ALLOWED[package] | {package}
        and not (package == "evaluation" and path.name in NETWORKS and name.split(".")[0] == "torch")
    }
    assert not wrong


def test_rvdflow_uses_lbm_only_through_its_format_and_command_line_support():
    wrong = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in _sources("rvdflow")
        for name in _imports(path)
        if name.startswith("lbm.") and not any(name == s or name.startswith(s + ".") for s in SHARED)
    }
    assert not wrong


@pytest.mark.parametrize("module", [*PACKAGES, "lbm.cli", "rvdflow.cli"])
def test_importing_a_package_or_a_command_line_is_cheap(module):
    # Modules, not seconds: a timed assert would depend on the machine.
    code = f"import sys, {module}; print(*sorted({HEAVY!r} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert loaded.stdout.split() == []


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_are_typed(package):
    assert (ROOT / package / "py.typed").is_file()


def test_every_command_of_the_readme_exists():
    """Each `lbm ...` and `rvdflow ...` line of README and quickstart names a command and options that exist."""
    import re

    import typer.main

    from lbm.cli import app as lbm_app
    from rvdflow.cli import app as rvdflow_app

    groups = {"lbm": typer.main.get_command(lbm_app), "rvdflow": typer.main.get_command(rvdflow_app)}
    lines = []
    for page in ("README.md", "docs/quickstart.md"):
        text = (ROOT / page).read_text().replace("\\\n", " ")
        lines += re.findall(r"^(?:\$ )?((?:lbm|rvdflow) [a-z].*)$", text, re.M)
    assert len(lines) >= 4
    for line in lines:
        program, command, *words = line.split("#")[0].split()
        found = groups[program]
        assert command in found.commands, line
        found = found.commands[command]
        while hasattr(found, "commands"):  # rvdflow convert kth
            found = found.commands[words.pop(0)]
        known = {option for parameter in found.params for option in parameter.opts}
        assert {w for w in words if w.startswith("-")} <= known, line


def test_no_exported_function_hides_behind_a_module_of_its_name():
    """`import evaluation.x` binds the module to the name: a function x would be one or the other by accident."""
    import evaluation

    assert not {p.stem for p in _sources("evaluation")} & set(evaluation.__all__)
    for name in evaluation.__all__:
        getattr(evaluation, name)
