"""The strategies that learn an architecture, by name."""

import difflib
from dataclasses import dataclass

from mobilenas.base.errors import BadInput
from mobilenas.base.resources import read_value, shipped
from mobilenas.base.settings import load_settings
from mobilenas.strategies.config import SearchConfig
from mobilenas.strategies.darts import Darts
from mobilenas.strategies.darts_pt import DartsPt
from mobilenas.strategies.drnas import Drnas
from mobilenas.strategies.dropnas import DropNas
from mobilenas.strategies.gaea import Gaea
from mobilenas.strategies.gdas import Gdas
from mobilenas.strategies.idarts import Idarts
from mobilenas.strategies.ista import Ista
from mobilenas.strategies.lambda_darts import LambdaDarts
from mobilenas.strategies.learned import LearnedStrategy
from mobilenas.strategies.mergenas import MergeNas
from mobilenas.strategies.parsec import Parsec
from mobilenas.strategies.pc_darts import PcDarts
from mobilenas.strategies.pdarts import Pdarts
from mobilenas.strategies.proxyless import Proxyless
from mobilenas.strategies.rome import Rome
from mobilenas.strategies.shapley import Shapley
from mobilenas.strategies.svge import Svge
from mobilenas.strategies.zarts import Zarts


@dataclass(frozen=True)
class Method:
    """A strategy and its paper, and what a user chooses by.

    runs: what one step of the search runs, candidates a choice. memory: of how many of them it
    keeps activations at once. spaces: that it takes. needs: what is not always at hand.
    """

    strategy: type[LearnedStrategy]
    paper: str
    runs: str
    memory: str
    spaces: str = "blocks, nb201, darts"
    needs: str = ""


METHODS = {
    "darts": Method(Darts, "Liu et al. 2019", "all, twice; of second order five times", "all"),
    "pc-darts": Method(
        PcDarts,
        "Xu et al. 2020",
        "all, twice, on a part of the channels",
        "one part of all",
        "nb201, darts",
    ),
    "gdas": Method(Gdas, "Dong and Yang 2019", "one, twice", "one"),
    "proxyless": Method(
        Proxyless, "Cai et al. 2019", "one; two more every fifth step", "one or two"
    ),
    "parsec": Method(
        Parsec, "Casale et al. 2019", "one, 32 times forward, some times backward", "one"
    ),
    "pdarts": Method(
        Pdarts, "Chen et al. 2019", "all that are left, twice; in three stages", "all"
    ),
    "mergenas": Method(
        MergeNas,
        "Wang et al. 2020",
        "all, twice; convolutions of a choice as one",
        "one convolution",
        "linear blocks, nb201, darts",
    ),
    "dropnas": Method(DropNas, "Hong et al. 2020", "most, once", "most"),
    "rome": Method(
        Rome,
        "Wang et al. 2023",
        "one, 14 times; two edges a node in darts, no topology in nb201",
        "one",
    ),
    "idarts": Method(
        Idarts,
        "Zhang et al. 2021",
        "all, once; twelve times more every fourth step",
        "all, and gradients",
        needs="float32",
    ),
    "lambda-darts": Method(
        LambdaDarts,
        "Movahedi et al. 2023",
        "all, four times",
        "all, and gradients",
        needs="float32, equal layers",
    ),
    "shapley": Method(
        Shapley, "Xiao et al. 2022", "all, once; forward, half of them, many times", "all"
    ),
    "zarts": Method(Zarts, "Wang et al. 2022", "all, once; 42 times more every tenth step", "all"),
    "darts-pt": Method(
        DartsPt,
        "Wang et al. 2021",
        "all that are left, twice",
        "all",
        needs="--from a search",
    ),
    "ista": Method(Ista, "Yang et al. 2020", "one, twice; two edges a node in darts", "one"),
    "svge": Method(
        Svge,
        "Lukasik et al. 2021",
        "one, once; forward, at the end, of many archs",
        "one",
        "blocks, nb201",
    ),
    "drnas": Method(Drnas, "Chen et al. 2021", "all, twice; fewer where they are pruned", "all"),
    "gaea": Method(
        Gaea,
        "Li et al. 2021",
        "those of its backbone: all, or one; twice",
        "those of its backbone",
    ),
}


def method(name: str) -> Method:
    """The strategy of a name. Raises BadInput naming the nearest one."""
    if name not in METHODS:
        near = difflib.get_close_matches(name, METHODS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(METHODS)}"
        raise BadInput(f"strategy {name!r}: there is none of this name; {hint}")
    return METHODS[name]


def strategy_class(strategy: str | type[LearnedStrategy]) -> type[LearnedStrategy]:
    """A strategy that is named, or a class of the user's own. Raises BadInput."""
    return method(strategy).strategy if isinstance(strategy, str) else strategy


def strategy_name(kind: type[LearnedStrategy]) -> str:
    """The name in METHODS, of a class of the user's own that of the class."""
    names = (name for name, each in METHODS.items() if each.strategy is kind)
    return next(names, kind.__name__)


def load_search_config(name: str, preset: str | None, overrides: list[str]) -> SearchConfig:
    """The recipe of a strategy: a preset of configs/strategies by name, by default that of the
    strategy's own name, or a YAML file, with `key=value` overrides. The lr of a shipped preset that
    is not its own is that of a search from fresh weights, so one that goes on from another search
    leaves it unset. Raises BadInput.
    """
    kind = method(name).strategy
    config = load_settings(kind.Config, "strategies", preset or name, overrides)
    is_own = preset in (None, name) or preset not in shipped("strategies")
    if kind.must_start_from and not is_own and "lr" not in dict(map(read_value, overrides)):
        return kind.Config(**config.model_dump(include=config.model_fields_set - {"lr"}))
    return config
