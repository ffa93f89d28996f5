"""The wheel brings its data folders along, and each installation reads its own."""

import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT

import mobilenas
from mobilenas.base.resources import resource
from mobilenas.nn.kernels.build import TARGETS, library_path

FOLDERS = ("configs", "latency_tables")
QUESTIONS = """
import json, mobilenas
from mobilenas.train.config import load_supernet_config
from mobilenas.base.resources import resource
from mobilenas.space import list_spaces, load_space
print(json.dumps({
    "package": mobilenas.__file__,
    "configs": str(resource("configs")),
    "latency_tables": str(resource("latency_tables")),
    "spaces": list_spaces(),
    "archs of s1": load_space("s1").num_archs,
    "passes": load_supernet_config("default", []).passes,
}))
"""


def run(*arguments: object, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout; without hatchling here, `build` fetches it."""
    out = tmp_path_factory.mktemp("dist")
    isolation = ["--no-isolation"] if importlib.util.find_spec("hatchling") else []
    run("-m", "build", "--wheel", *isolation, "--outdir", out, ROOT, cwd=out)
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel installed in it, without its dependencies."""
    target = tmp_path_factory.mktemp("installed")
    pip = ["-m", "pip", "--disable-pip-version-check", "install", "--no-deps", "--no-index"]
    run(*pip, "--target", target, wheel, cwd=target)
    return target


def package_files() -> dict[str, bytes]:
    """What a wheel of this checkout has to hold, by its path there."""
    package = ROOT / "mobilenas"
    sources = [p for p in package.rglob("*") if p.suffix in (".py", ".cpp", ".j2", ".css", ".js")]
    paths = {f"mobilenas/{p.relative_to(package)}": p for p in sources}
    for name in FOLDERS:
        files = [
            p for p in (ROOT / name).rglob("*") if p.suffix in (".yaml", ".json", ".md", ".py")
        ]
        paths |= {f"mobilenas/{p.relative_to(ROOT)}": p for p in files}
    return {name: path.read_bytes() for name, path in paths.items()}


def test_the_wheel_holds_the_package_and_its_data(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {n: archive.read(n) for n in archive.namelist() if n.startswith("mobilenas/")}
        about = {n.split("/", 1)[1] for n in archive.namelist() if ".dist-info/" in n}
        (entry,) = (n for n in archive.namelist() if n.endswith("entry_points.txt"))
        assert "mobilenas = mobilenas.cli:main" in archive.read(entry).decode()
    wanted = package_files()
    assert {f"mobilenas/configs/spaces/{s}.yaml" for s in ("digits", "macro", "s1")} < wanted.keys()
    assert "mobilenas/configs/supernet/default.yaml" in wanted
    assert any(name.startswith("mobilenas/latency_tables/") for name in wanted)
    assert {n: held.get(n) for n in wanted} == wanted
    assert [n for n in held if "__pycache__" in n] == []
    assert "licenses/LICENSE" in about
    compiled = {n for n in held if n.endswith(".so")}
    platform = "linux_x86_64" if compiled else "any"  # what a machine without a compiler makes
    assert wheel.name == f"mobilenas-{mobilenas.__version__}-py3-none-{platform}.whl"
    assert compiled == {
        f"mobilenas/{path.relative_to(ROOT / 'mobilenas')}"
        for path in map(library_path, TARGETS.values())
        if path.exists()
    }


def test_an_installed_copy_reads_its_own_data(installed: Path, tmp_path: Path) -> None:
    facts: dict[str, Any] = json.loads(
        run("-c", QUESTIONS, cwd=tmp_path, PYTHONPATH=str(installed))
    )
    package = installed / "mobilenas"
    assert Path(facts["package"]) == package / "__init__.py"
    assert [Path(facts[name]) for name in FOLDERS] == [package / name for name in FOLDERS]
    assert facts["spaces"] == sorted(p.stem for p in (ROOT / "configs" / "spaces").glob("*.yaml"))
    assert facts["archs of s1"] > 10**9
    assert facts["passes"] == 200


def test_an_installed_copy_has_the_command_line(installed: Path, tmp_path: Path) -> None:
    arguments = ("-m", "mobilenas", "space", "list", "--json")
    spaces = json.loads(run(*arguments, cwd=tmp_path, PYTHONPATH=str(installed)))
    assert {"s1", "nb101"} <= set(spaces)


def test_a_checkout_reads_the_folders_at_its_top(tmp_path: Path) -> None:
    assert [resource(name) for name in FOLDERS] == [ROOT / name for name in FOLDERS]
    facts = json.loads(run("-c", QUESTIONS, cwd=tmp_path, PYTHONPATH=str(ROOT)))
    assert [Path(facts[name]) for name in FOLDERS] == [ROOT / name for name in FOLDERS]
