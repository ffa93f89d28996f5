"""Stand-alone accuracies of archs of a space, by a short recipe: `mobilenas truth`.

run.json      settings; the archs, and what the data were
trainings/    the run folder of each training
truth.csv     the accuracies, as `rank --truth` reads them; written anew after each training
result.json   the same, once all are done
"""

import logging
from dataclasses import dataclass
from os.path import realpath
from pathlib import Path
from typing import Any

import torch

from mobilenas.base.errors import BadInput
from mobilenas.base.settings import Record
from mobilenas.rank.strata import varied_archs
from mobilenas.runs import RunFolder
from mobilenas.runs.folder import check_free
from mobilenas.search.front import read_search, spread_archs
from mobilenas.space import Space, load_space, space_from_dict
from mobilenas.stages.train import Asked, training_settings
from mobilenas.stages.trainings import Trainings, create_trainings, train_archs
from mobilenas.train.config import NetworkConfig
from mobilenas.train.images import check_same_data, data_parent, data_place
from mobilenas.train.networks import NetworkSettings
from mobilenas.workers import ONE_WORKER, WorkersAsked

ARCHS = 32  # where their number is not given
SEED = 1  # another than that of most supernets, whose validation images would be the same

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TruthAsked:
    """What a ground truth is asked for; None where the user left it to the rest.

    archs: by their text forms; else n of them are drawn from the space or, with `search`, spread
    over the front of that run. inherit: supernet run whose weights the trainings start from.
    preset, overrides: as `stages.train.Asked` has them; the preset is `digits` for the digits, else
    `cifar10-quick`. workers: trainings at once.
    """

    space: str | None = None
    archs: tuple[str, ...] = ()
    search: Path | None = None
    n: int | None = None
    data: str | None = None
    inherit: Path | None = None
    seed: int | None = None
    preset: str | None = None
    overrides: tuple[str, ...] = ()
    workers: WorkersAsked = ONE_WORKER

    def training(self) -> Asked:
        """The same of one of the trainings, whose arch is any."""
        return Asked(
            space=self.space,
            arch="any",
            search=self.search,
            data=self.data,
            inherit=self.inherit,
            seed=SEED if self.seed is None else self.seed,
            preset=self.preset,
            overrides=self.overrides,
            usual_preset="cifar10-quick",
        )


class TruthSettings(Record):
    """What may not change on resume: what all trainings share, as `NetworkSettings` has it, and the
    number of threads of each, on which the last bits of the accuracies depend.
    """

    space: dict[str, Any]
    data: str
    seed: int
    config: NetworkConfig
    inherit: str | None
    threads: int

    def plan(self) -> NetworkSettings:
        """The settings of a training, whose arch is any."""
        return NetworkSettings(arch="any", **self.model_dump(exclude={"threads"}))


def run_truth(asked: TruthAsked, out: Path, *, resume: bool) -> Trainings:
    """Train the archs that are asked for, or the rest of those that a folder was started with.

    The run is finished, with a result.json, unless the processes of some archs died; a resume tries
    these again. Raises BadInput.
    """
    run = _resumed(out, asked) if resume else _started(out, asked)
    settings = run.read(TruthSettings)
    places: dict[str, Any] = {"data": data_place(run)}
    if settings.inherit:
        places["inherit"] = run.find("supernet", "--inherit")
    plan = settings.plan().model_copy(update=places)
    trained = train_archs(
        out, run.fact("archs", list[str]), plan, workers=asked.workers, threads=settings.threads
    )
    if not trained.failed:
        run.store_result({"archs": trained.rows})
    return trained


def _started(out: Path, asked: TruthAsked) -> RunFolder:
    """A new run, with the folders of all its trainings."""
    check_free(out)
    if asked.space is None and asked.search is None and asked.inherit is None:
        raise BadInput("which archs? give --space, --search or --inherit")
    plan = training_settings(asked.training())
    archs = _choose(asked, space_from_dict(plan.space), plan.seed)
    first = create_trainings(out, archs, plan)[0]
    places = {"supernet": asked.inherit, "search": asked.search}
    parents = {role: realpath(place) for role, place in places.items() if place}
    settings = TruthSettings(
        space=first.settings["space"],
        **plan.model_dump(include={"data", "seed", "config", "inherit"}),
        threads=asked.workers.threads_each(torch.get_num_threads()),
    )
    return RunFolder.create(
        out,
        "truth",
        settings,
        parents=parents | data_parent(plan.data),
        facts={"archs": archs, **{k: first.fact(k) for k in ("data", "data_checksum")}},
    )


def _resumed(out: Path, asked: TruthAsked) -> RunFolder:
    """The run in a folder. Raises BadInput where what is asked for now is another setting."""
    run = RunFolder.to_resume(out, "truth")
    settings = run.read(TruthSettings)
    run = run.as_read(settings)
    check_same_data(run, asked.data)
    space = space_from_dict(settings.space)
    config = None
    if asked.preset or asked.overrides:
        config = asked.training().config(settings.data).resuming(settings.config)
    given = None
    if asked.space is not None:
        given = load_space(asked.space).to_dict() | {"num_classes": space.num_classes}
    same: dict[str, object] = {"space": given, "seed": asked.seed, "config": config}
    if asked.inherit and not settings.inherit:
        same["inherit"] = str(asked.inherit)
    run.check_unchanged(same)
    known = run.fact("archs", list[str])
    if (asked.archs or asked.search or asked.n) and _choose(asked, space, settings.seed) != known:
        raise BadInput(
            f"{out} was started with other archs: leave --arch, --search and -n out to resume, or "
            "choose another --out"
        )
    return run.at(data=asked.data, supernet=asked.inherit)


def _choose(asked: TruthAsked, space: Space, seed: int) -> list[str]:
    """The archs to train, by their text forms. Raises BadInput."""
    if asked.archs:
        if asked.search or asked.n:
            other = "--search" if asked.search else "-n"
            raise BadInput(f"--arch and {other}: either you name the archs or they are chosen")
        archs = [str(space.parse(arch)) for arch in asked.archs]
        twice = next((arch for arch in archs if archs.count(arch) > 1), None)
        if twice:
            raise BadInput(f"--arch {twice}: it is given twice")
        return archs
    n = asked.n or ARCHS
    if asked.search:
        found = read_search(asked.search)
        archs = spread_archs(found.front, n, found.cost)
        where = f"the front of {asked.search}"
    else:
        archs = [str(arch) for arch in varied_archs(space, n, seed)]
        where = f"space {space.name}"
    if len(archs) < n:
        log.info("%s has %d archs, %d were asked for", where, len(archs), n)
    return archs
