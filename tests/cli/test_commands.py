"""What the commands print: help, spaces, archs; and what the start costs."""

import json
import re
import subprocess
import sys
from typing import Any

import pytest
import typer
import typer.main
from helpers import ENVIRONMENT, MACRO_ARCH, Call, Outcome, check_refused

import mobilenas as package
from mobilenas import cli
from mobilenas.base.resources import shipped
from mobilenas.cost import CostModel
from mobilenas.space import list_cell_spaces, list_spaces, load_space

HEAVY = ("torch", "torchvision", "timm", "pymoo", "matplotlib", "sklearn", "onnx", "onnxruntime")


# --- help and start -----------------------------------------------------------------------------


def leaves() -> dict[str, Any]:
    """Every command by its words, such as `space show`."""
    found: dict[str, Any] = {}

    def walk(group: Any, words: str) -> None:
        for name, entry in group.commands.items():
            if hasattr(entry, "commands"):
                walk(entry, f"{words}{name} ")
            else:
                found[f"{words}{name}"] = entry

    walk(typer.main.get_command(cli.app), "")
    return found


def test_the_commands_are_there() -> None:
    wanted = {"space list", "space show", "arch sample", "arch cost", "supernet-train"}
    assert wanted | {"evolve", "export", "quickstart"} <= leaves().keys()


@pytest.mark.parametrize("words", leaves())
def test_help_shows_an_example(words: str, call: Call) -> None:
    outcome = call(*words.split(), "--help")
    assert (outcome.code, outcome.err) == (0, "")
    example = re.search(r"Example: mobilenas (.*)", outcome.out)
    assert example
    assert example[1].startswith(words)
    options = {name for p in leaves()[words].params for name in p.opts if name.startswith("-")}
    used = {word for word in example[1].split() if word.startswith("-")}
    assert used <= options
    assert "--json" in options


def test_a_paragraph_of_the_help_breaks_at_the_width_of_the_terminal_only() -> None:
    texts = {words: command.help for words, command in leaves().items()}
    assert not {words for words, text in texts.items() if re.search(r"[^\n]\n[^\n]", text)}


@pytest.mark.parametrize("words", ["space list", "space show", "arch sample", "arch cost"])
def test_the_example_works(words: str, call: Call) -> None:
    example = re.search(r"Example: mobilenas (.*)", leaves()[words].help)
    assert example
    outcome = call(*example[1].split())
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out


@pytest.mark.parametrize("words", ["", "evolve"])
def test_help_says_what_flops_are(words: str, call: Call) -> None:
    assert "multiply-adds" in call(*words.split(), "--help").out.lower()


def test_a_command_that_is_stopped_says_how_to_continue_where_it_can() -> None:
    hints = {words: cli._how_to_continue([*words.split(), "x", "--json"]) for words in leaves()}
    resumed = {words for words, hint in hints.items() if hint == "; --resume continues the run"}
    assert {"evolve", "detect train", "latency build", "latency check", "rank"} <= resumed
    assert hints["quickstart"] == "; it continues when it is run again"
    silent = {words for words, hint in hints.items() if not hint}
    assert {"bench", "eval", "export", "report", "convert", "detect predict"} <= silent
    assert len(silent) + len(resumed) == len(hints) - 1


def test_version(call: Call) -> None:
    assert call("--version") == Outcome(0, package.__version__ + "\n", "")


@pytest.mark.parametrize(
    "arguments",
    [["nope"], ["space", "nope"], ["arch", "sample", "s1", "-n", "0"], ["evolve", "--seed", "-1"]],
)
def test_words_that_are_no_command_exit_with_2(arguments: list[str], call: Call) -> None:
    outcome = call(*arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert arguments[-1] in outcome.err or arguments[-2] in outcome.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["-c", "import mobilenas, mobilenas.space, mobilenas.cost"],
        ["-m", "mobilenas", "--help"],
        ["-m", "mobilenas", "supernet-train", "--help"],
        ["-m", "mobilenas", "arch", "cost", "macro", MACRO_ARCH],
    ],
)
def test_nothing_heavy_is_imported(arguments: list[str]) -> None:
    python = [sys.executable, "-X", "importtime", *arguments]
    done = subprocess.run(python, capture_output=True, text=True, check=True, env=ENVIRONMENT)
    modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "mobilenas" in modules
    assert sorted({module.partition(".")[0] for module in modules} & set(HEAVY)) == []


# --- spaces and archs ---------------------------------------------------------------------------


def test_space_list(call: Call) -> None:
    described = json.loads(call("space", "list", "--json").out)
    assert list(described) == list_spaces() + list_cell_spaces()
    head, *lines = call("space", "list").out.splitlines()
    assert head.split()[:3] == ["space", "px", "FLOPs:"]
    for line, (name, text) in zip(lines, described.items(), strict=True):
        assert line.split()[0] == name
        assert line.endswith(text)
    s1 = next(line for line in lines if line.startswith("s1 "))
    assert s1.split()[1:5] == ["32", "242.8M", "435M", "681.3M"]


@pytest.mark.parametrize(
    ("command", "kind"), [("supernet-train", "supernet"), ("train", "train"), ("truth", "train")]
)
def test_help_names_every_preset(command: str, kind: str) -> None:
    (option,) = [each for each in leaves()[command].params if each.name == "preset"]
    assert set(shipped(kind)) <= set(re.findall(r"[\w-]+", option.help))


def test_a_space_file_that_is_missing(call: Call) -> None:
    check_refused(call("space", "show", "my.yaml"), "my.yaml: no such file")


def test_space_show(call: Call) -> None:
    outcome = call("space", "show", "s1", "--flops", "0.5G", "--params", "5M", "--json")
    facts = json.loads(outcome.out)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.count("\n") == 1
    space, cost_model = load_space("s1"), CostModel(load_space("s1"))
    assert facts["num_archs"] == space.num_archs
    assert facts["choices"] == [len(block.candidates) for block in space.blocks]
    for name in ("flops", "params", "memory"):
        extent = cost_model.range(name)
        assert facts[name] == {
            "minimum": extent.minimum,
            "median": extent.median,
            "maximum": extent.maximum,
        }
        assert extent.minimum < extent.median < extent.maximum
    assert facts["limits"] == {"flops": 500_000_000, "params": 5_000_000}
    assert facts["feasible_share"] == cost_model.feasible_share(facts["limits"])
    text = call("space", "show", "s1").out
    assert all(f"{block.name} " in text for block in space.layers)


def test_arch_sample(call: Call) -> None:
    outcome = call("arch", "sample", "s1", "-n", "5", "--seed", "3")
    archs = outcome.out.splitlines()
    space = load_space("s1")
    assert [str(space.parse(arch)) for arch in archs] == archs
    assert len(set(archs)) == 5
    as_json = call("arch", "sample", "s1", "-n", "5", "--seed", "3", "--json").out
    assert json.loads(as_json) == {"space": "s1", "archs": archs}
    assert call("arch", "sample", "s1", "-n", "5", "--seed", "4").out != outcome.out
    assert call("arch", "sample", "s1", "-n", "2", "--seed", "3").out.splitlines() == archs[:2]


def test_arch_sample_over_the_whole_range_of_costs(call: Call) -> None:
    space = load_space("s1")
    costs = CostModel(space)
    flops = {}
    for flags in ((), ("--spread",)):
        archs = call("arch", "sample", "s1", "-n", "50", *flags).out.splitlines()
        flops[flags] = [costs.flops(space.parse(arch)) for arch in archs]
    assert min(flops[("--spread",)]) < min(flops[()]) and max(flops[()]) < max(flops[("--spread",)])
    check_refused(call("arch", "sample", "nb201", "--spread"), "--spread", "nb201", "blocks")


def test_arch_cost(call: Call) -> None:
    cost_model = CostModel(load_space("macro"))
    values = cost_model.of(cost_model.space.parse(MACRO_ARCH))
    found = json.loads(call("arch", "cost", "macro", MACRO_ARCH, "--json").out)
    assert isinstance(found.pop("latency_ms"), dict)  # of the tables that are shipped
    assert found == values
    text = dict(
        line.split(maxsplit=1)
        for line in call("arch", "cost", "macro", MACRO_ARCH).out.splitlines()
    )
    assert text["flops"] == "47.93M"
    assert text["memory"] == "491.5kB"
    narrow = json.loads(call("arch", "cost", "macro:width=0.5", MACRO_ARCH, "--json").out)
    assert narrow["flops"] < values["flops"] / 2


def test_arch_cost_of_linear_paths_is_of_the_folded_network_and_of_all_paths(call: Call) -> None:
    arch, largest = ("_".join([text] * 12) for text in ("e3k3579", "e3k9"))
    linear, each = "s1:path_activation=after_sum", "s1"
    found = json.loads(call("arch", "cost", linear, arch, "--json").out)
    all_paths = found.pop("all_paths")
    assert found == json.loads(call("arch", "cost", each, largest, "--json").out)
    trained = json.loads(call("arch", "cost", each, arch, "--json").out)
    assert all_paths["flops"] == trained["flops"] and all_paths["memory"] == trained["memory"]
    assert trained["params"] < all_paths["params"]
    lines = call("arch", "cost", linear, arch).out.splitlines()
    assert [line for line in lines if line.startswith("flops, all paths ")], lines
