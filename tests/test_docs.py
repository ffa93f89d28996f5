"""What the pages say of files, headings and keys that the code could move away from."""

import re
from pathlib import Path

import pytest

from mobilenas.strategies.methods import METHODS
from mobilenas.train.config import NetworkConfig, SupernetConfig, TrainingConfig

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("export/**/*.md")]


def prose(page: Path) -> str:
    """The text of a page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub names them in links."""
    headings = re.findall(r"^#+ (.*)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_a_file_and_a_heading(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if link.startswith("http"):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_rows_of_a_table_have_as_many_cells(page: Path) -> None:
    """Others are drawn with a cell left out or cut off."""
    width = 0
    for line in prose(page).splitlines():
        cells = len(re.findall(r"\|", re.sub(r"`[^`]*`", "", line))) if line[:1] == "|" else 0
        assert not width or cells in (0, width), line
        width = cells


@pytest.mark.parametrize(
    ("page", "shape"), [("training.md", SupernetConfig), ("train.md", NetworkConfig)]
)
def test_every_key_of_a_recipe_is_explained(page: str, shape: type[TrainingConfig]) -> None:
    # Both kinds of training share most keys, which training.md has.
    text = prose(ROOT / "docs" / page) + prose(ROOT / "docs/training.md")
    assert [key for key in shape.model_fields if f"`{key}`" not in text] == []


@pytest.mark.parametrize("name", METHODS)
def test_every_key_of_a_search_by_gradient_is_explained(name: str) -> None:
    text = prose(ROOT / "docs/strategies.md") + prose(ROOT / "docs/training.md")
    fields = METHODS[name].strategy.Config.model_fields
    assert [key for key in fields if f"`{key}`" not in text] == []
    assert f"`{name}`" in text


def test_the_packages_of_the_architecture_are_there() -> None:
    rows = re.findall(r"^\| `(\w+)/` \|(.*)$", prose(ROOT / "docs/architecture.md"), re.MULTILINE)
    packages = {path.parent.name for path in (ROOT / "mobilenas").glob("*/__init__.py")}
    assert {package for package, _ in rows} == packages
    for package, what in rows:
        for name in re.findall(r"`(\w+\.py)`", what):
            assert (ROOT / "mobilenas" / package / name).is_file(), f"{package}/{name}"
