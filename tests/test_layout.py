"""The harness' modules: imports go one way, and what takes a second to load is not loaded for --help."""

import ast
import subprocess
import sys

import pytest
from conftest import ROOT

MODULES = {
    path.stem: ast.parse(path.read_text()) for path in (ROOT / "harness").glob("*.py") if path.stem != "__init__"
}


def imports_of(tree):
    """Return the modules of harness that a module imports."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "harness":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("harness."):
            found.add(node.module.partition(".")[2])
    return found


def test_there_are_no_circles():
    """Modules are taken away as long as there is one that imports none of the rest."""
    rest = {name: imports_of(tree) for name, tree in MODULES.items()}
    while rest:
        free = {name for name, imported in rest.items() if not imported & rest.keys()}
        assert free, f"a circle: {rest}"
        rest = {name: imported for name, imported in rest.items() if name not in free}


def test_figures_touch_no_process_file_or_clock():
    for name in ("statistics", "rows", "tables", "verdict", "comparison"):
        imported = set()
        for node in ast.walk(MODULES[name]):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        assert not imported & {"os", "subprocess", "psutil", "time", "pathlib.Path"}, name


@pytest.mark.parametrize("program", ["benchmark", "report"])
def test_help_loads_no_heavy_package(program):
    code = f"import sys; sys.argv = ['x', '--help']; import {program}\ntry: {program}.main()\nfinally: print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"numpy", "scipy", "matplotlib", "rich", "pyperf", "psutil"} & set(done.stderr.split())
