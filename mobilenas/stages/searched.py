"""A finished search as what other stages start from."""

from pathlib import Path

from mobilenas.base.errors import BadInput
from mobilenas.runs import RunFolder
from mobilenas.runs.folder import is_run
from mobilenas.search.front import read_search


def is_by_gradient(run: Path) -> bool:
    """Whether a folder holds a search by gradient rather than one of `evolve`.

    Raises BadInput where it holds a run of another kind.
    """
    return is_run(run, "search") and RunFolder.open(run, "evolve", "search").kind == "search"


def find_supernet(run: Path, option: str) -> Path:
    """Where the supernet of a finished search is now.

    option: by which the user can say it. Raises BadInput where there is none.
    """
    known = read_search(run).supernet
    if known is None:
        raise BadInput(
            f"{run} is a search by gradient: `mobilenas train --search {run}` comes next"
        )
    if not is_run(run, "evolve"):  # the result alone
        return known
    try:
        return RunFolder.open(run, "evolve").parent("supernet", option)
    except BadInput:
        if known.exists():  # where it was when the search was resumed
            return known
        raise
