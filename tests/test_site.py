"""The documentation site: it builds without a warning, and the command reference is current."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from helpers import ROOT, mobilenas

BIN = Path(sys.executable).parent


def in_nav() -> set[str]:
    """The pages that the nav of the site has."""
    sections = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"]
    return {page for section in sections for pages in section.values() for page in pages}


def test_the_command_reference_is_current(tmp_path: Path) -> None:
    made = tmp_path / "commands.md"
    arguments = ["--name", "mobilenas", "--title", "Commands", "--output", str(made)]
    command = [sys.executable, "-m", "typer", "mobilenas.cli", "utils", "docs", *arguments]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    current = (ROOT / "docs/reference/commands.md").read_text()
    assert made.read_text() == current, "`make commands` brings it up to date"


def test_every_page_is_in_the_nav() -> None:
    pages = {str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")}
    assert pages - in_nav() == set(), "zensical.toml has the nav"


@pytest.mark.skipif(not (BIN / "zensical").exists(), reason="zensical is not installed: .[docs]")
@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_the_site_builds_without_a_warning() -> None:
    made = subprocess.run(
        ["make", "--old-file=setup", "site", f"BIN={BIN}"],
        cwd=ROOT,
        env=os.environ | {"NO_COLOR": "1"},
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    site = ROOT / "build/site"
    for page in in_nav() - {"README.md"}:
        assert (site / page.replace("README.md", "index.html")).with_suffix(".html").exists(), page
    reference = (site / "docs/reference/python.html").read_text()
    assert 'id="mobilenas.cost.CostModel.batch"' in reference
    assert "What each candidate of each block costs." in reference
    assert "load_search_config" not in reference
    # Pages fetch nothing from elsewhere.
    loaded = re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="(https?:[^"]*)"', reference)
    assert loaded == []


def test_the_shell_completes_commands_and_options() -> None:
    def completed(*words: str) -> list[str]:
        line = {"COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
        shell = os.environ | line | {"_MOBILENAS_COMPLETE": "complete_bash"}
        code = "import sys; sys.argv = ['mobilenas']; from mobilenas.cli import main; main()"
        done = subprocess.run([sys.executable, "-c", code], env=shell, capture_output=True)
        return done.stdout.decode().split()

    assert completed("mobilenas", "lat") == ["latency"]
    assert {"build", "check", "transfer"} <= set(completed("mobilenas", "latency", ""))
    assert "--params" in completed("mobilenas", "evolve", "--pa")


def test_the_help_names_where_to_start() -> None:
    shown = mobilenas("--help")
    assert shown.code == 0
    assert "quickstart" in shown.out.split("Options")[0]
    assert "3 no network meets the budget" in " ".join(shown.out.split())
