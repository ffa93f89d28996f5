"""The option --track of the commands that write run folders."""

import functools
import inspect
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

log = logging.getLogger(__name__)

Track = Annotated[
    str | None,
    typer.Option(
        metavar="URI",
        help="Write the run to mlflow when it is done: http://HOST:PORT or file:///DIR.",
    ),
]


def tracked(command: Callable[..., None]) -> Callable[..., None]:
    """A command, whose run folder is its option `out`, or a folder of runs, with --track."""

    @functools.wraps(command)
    def run(*, track: str | None = None, **options: Any) -> None:
        if track is None or options.get("list_methods"):  # a list is no run
            command(**options)
            return
        from mobilenas.runs import track as tracking
        from mobilenas.runs.folder import runs_in

        tracking.check_tracker(track)
        command(**options)
        if os.environ.get("RANK", "0") == "0":  # of several processes one has the run
            for folder in runs_in(Path(options["out"])):  # several of `search --seeds`
                run_id = tracking.track(folder, track)
                log.info("%s is in mlflow at %s: run %s", folder, track, run_id)

    given = inspect.signature(command)
    option = inspect.Parameter(
        "track", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Track
    )
    # Typer reads the options from here.
    run.__signature__ = given.replace(  # type: ignore[attr-defined]
        parameters=[*given.parameters.values(), option]
    )
    run.__annotations__ = command.__annotations__ | {"track": Track}
    return run
