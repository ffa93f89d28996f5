"""The layout that docs/architecture.md promises: imports go one way, and files stay readable."""

import ast
from pathlib import Path

import pytest

import mobilenas

PACKAGE = Path(mobilenas.__file__).parent
# A package imports only from itself and from those above it.
LAYERS = [
    *("base", "space", "cost", "data", "nn", "runs", "workers", "train", "strategies", "evaluate"),
    *("search", "rank", "runtimes", "export", "latency", "detect", "report", "stages", "timm"),
    "cli",
]
FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {
    ".".join(["mobilenas", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(
        ".__init__"
    ): path
    for path in FILES
}
LONGEST = 400  # lines


def imports(module: str) -> set[str]:
    """The modules of this package that a module imports, at its top or inside of functions."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name in MODULES} - {module, "mobilenas"}


def layer(module: str) -> int:
    return LAYERS.index(module.split(".")[1])


@pytest.mark.parametrize("module", [m for m in MODULES if m.count(".") and "__main__" not in m])
def test_no_import_climbs(module: str) -> None:
    climbing = [other for other in imports(module) if layer(other) > layer(module)]
    assert climbing == []


def test_no_import_goes_in_a_circle() -> None:
    graph = {module: imports(module) for module in MODULES}
    for package in [module for module, path in MODULES.items() if path.name == "__init__.py"]:
        graph[package] = set()  # it gathers what its modules have, and these import it not
    done: set[str] = set()
    while len(done) < len(graph):
        free = {module for module, needed in graph.items() if needed <= done} - done
        assert free, f"in circles: {sorted(graph.keys() - done)}"
        done |= free


def test_files_fit_in_the_head() -> None:
    lengths = {str(path.relative_to(PACKAGE)): len(path.read_text().splitlines()) for path in FILES}
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST} == {}
