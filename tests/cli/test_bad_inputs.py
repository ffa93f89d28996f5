"""Commands that are given what they cannot use: each ends at once, with exit code 2, one line that
names it, and nothing left behind. The rows are made of kinds of values and kinds of files.
"""

import importlib.util
import os
import subprocess
from itertools import product
from pathlib import Path

import pytest
import yaml
from helpers import ENVIRONMENT, TINY_ARCH, TINY_SPACE, Call, Outcome, command

from mobilenas.space import load_space

NINES = "9" * 400
TRAIN = ["train", f"--space={TINY_SPACE}", f"--arch={TINY_ARCH}"]
TRUTH = ["truth", f"--space={TINY_SPACE}", "--arch", TINY_ARCH]
TRANSFER = ["latency", "transfer", "--space=s1", "--device=mine"]
TABLE = "--table=epyc-zen5-onnxruntime-fp32-s1"

# An option with a number, what it is given to, and what it is given.
COUNTS = ["0", "-1", "nan", "1.5", "1e400", NINES, "many", ""]
SEEDS = ["-1", "nan", "1.5", str(2**64), NINES, "today"]
NUMBERS: list[tuple[list[str], str, list[str]]] = [
    (["arch", "sample", "s1"], "-n", COUNTS),
    (["arch", "sample", "s1"], "--seed", SEEDS),
    (["supernet-train"], "--passes", ["0", "-1", "nan", "inf", "1e400", "1e300", NINES, "many"]),
    (["supernet-train"], "--seed", SEEDS),
    (TRUTH[:2], "-n", COUNTS),
    (TRUTH, "--workers", COUNTS),
    (TRUTH, "--seed", SEEDS),
    (["rank"], "-n", ["2", *COUNTS]),
    (["evolve"], "--rounds", COUNTS),
    (["evolve"], "--per-round", COUNTS),
    (["evolve"], "--population", ["1", *COUNTS]),
    (["evolve"], "--generations", COUNTS),
    (["evolve"], "--workers", [*COUNTS, "Ray", "ray://", "ray://host", "ray://host:0"]),
    (["evolve"], "--worker-timeout", ["0", "-1", "nan", "inf", "1e400", "many", ""]),
    (["rank", "--benchmark=macro"], "--workers", COUNTS),
    (["sweep", "--flops=1M"], "--workers", COUNTS),
    (["sweep", "--flops=1M"], "--generations", COUNTS),
    (TRAIN, "--resolution", [*COUNTS, "1000000000"]),
    (TRAIN, "--seed", SEEDS),
    (["export", "--onnx"], "--batch", ["0", "-1", "nan", "1.5", "many", ""]),
    (["export", "--onnx"], "--opset", ["0", "-1", "13", NINES, "new"]),
    (["bench", "a.onnx"], "--threads", COUNTS),
    (["bench", "a.onnx"], "--rounds", COUNTS),
    (["bench", "a.onnx"], "--resolution", COUNTS),
    (["latency", "build", "--space=s1", "--device=mine"], "--threads", COUNTS),
    (["latency", "build", "--space=s1", "--device=mine"], "--batch", COUNTS),
    (["latency", "build", "--space=s1", "--device=mine"], "--resolution", COUNTS),
    (["latency", "build", "--space=s1", "--device=mine"], "--budget", ["0s", *COUNTS[1:]]),
    (["latency", "check", "any"], "-n", [*COUNTS, "1000000000"]),
    ([*TRANSFER, "--table=any", "--timings=any"], "--holdout", COUNTS[1:]),
    (["search"], "--seed", SEEDS),
    (["detect", "train"], "--seed", [*SEEDS, str(2**31)]),
    (["detect", "predict", "run", "image"], "--min-score", ["-1", "2", "nan", NINES, "sure"]),
    (["quickstart"], "--seed", SEEDS),
]
SIZES = ["-1", "nan", "inf", "1e400", NINES, "20ms", "many", ""]
LIMITS = [
    (["space", "show", "s1"], option, SIZES) for option in ("--flops", "--params", "--memory")
]
LIMITS += [
    ([command], option, SIZES)
    for command in ("evolve", "search")
    for option in ("--flops", "--params", "--memory")
]
LATENCIES = ["20", "20ms", "-1ms@x", "nan@x", "1e400ms@x", f"{NINES}ms@x", "20ms@", "20ms@none"]
LIMITS += [(["space", "show", "s1"], "--latency", LATENCIES)]

# Keys of a preset, and of a space, and what they are set to.
KEYS = ("batch_size", "lr", "momentum", "limit", "workers", "validate_images", "warmup_epochs")
SET = [f"{key}={value}" for key in KEYS for value in ("-1", NINES, ".nan", "word", "true", "[")]
SET += ["lr", "=1", "lrr=1", f"device={NINES}", "device=meta", "optimizer=Foo", "optimizer=''"]
SPACES = [
    f"s1:{key}={value}"
    for key in ("width", "resolution")
    for value in ("0", "-1", "nan", "1e400", NINES)
]
SPACES += ["", ":", "s1:width", "~nosuch/x", "\x00", "s1:stem=1", "s1:stages=[]", "x" * 300]

# What reads a file or folder, {} in its place, and the end of the file's name.
READERS: list[tuple[str, str, list[str]]] = [
    ("space", ".yaml", ["space", "show", "{}"]),
    ("space of archs", ".yaml", ["arch", "sample", "{}"]),
    ("table of a limit", ".json", ["space", "show", "s1", "--latency=20ms@{}"]),
    ("supernet's preset", ".yaml", ["supernet-train", f"--space={TINY_SPACE}", "--preset={}"]),
    ("data in parquet", ".parquet", ["supernet-train", f"--space={TINY_SPACE}", "--data={}"]),
    ("data in tars", ".tar", ["supernet-train", f"--space={TINY_SPACE}", "--data={}"]),
    ("preset", ".yaml", [*TRAIN, "--preset={}"]),
    ("weights", ".safetensors", [*TRAIN, "--weights={}"]),
    ("inherited", "", [*TRAIN, "--inherit={}"]),
    ("preset of search", ".yaml", ["search", f"--space={TINY_SPACE}", "--preset={}"]),
    ("search to train", "", ["train", "--search={}"]),
    ("preset of truth", ".yaml", [*TRUTH, "--preset={}"]),
    ("search of truth", "", ["truth", "--search={}"]),
    ("supernet to rank", "", ["rank", "--supernet={}", "--truth=any.csv"]),
    ("supernet to search", "", ["evolve", "--supernet={}"]),
    ("run to export", "", ["export", "--onnx", "--run={}"]),
    ("network to export", ".safetensors", ["export", "--onnx", "--network={}", "--data=digits"]),
    ("saved network", ".safetensors", ["eval", "{}", "--data=digits"]),
    ("onnx file", ".onnx", ["eval", "{}", "--data=digits"]),
    ("net config", ".json", ["convert", "{}", "weights.npz", "--out=out"]),
    ("table", ".json", ["latency", "check", "{}"]),
    ("table to transfer", ".json", [*TRANSFER, "--table={}", "--timings=any"]),
    ("timings", ".csv", [*TRANSFER, TABLE, "--timings={}"]),
    ("detector's config", ".yaml", ["detect", "train", "{}"]),
    ("detector's JSON", ".json", ["detect", "train", "{}"]),
    ("detector's data", "", ["detect", "train", "retinanet_quick", "--data={}"]),
    ("detector", "", ["detect", "eval", "{}"]),
    ("detector to use", "", ["detect", "predict", "{}", "image.png"]),
    ("detector to export", "", ["detect", "export", "{}", "--onnx"]),
]
FILES = ("missing", "folder", "pipe", "garbage", "empty", "deep", "loop", "~nosuch", "n" * 300)
NO_MMDET = importlib.util.find_spec("mmdet") is None
ROWS = [
    pytest.param(
        [*command, option, value],
        [option.strip("-"), f"'{value.partition('@')[0][:20]}"],
        id=f"{' '.join(command)} {option} {value}"[:80],
    )
    for command, option, values in [*NUMBERS, *LIMITS]
    for value in values
]
ROWS += [
    pytest.param([*TRAIN, f"--set={item}"], [item.partition("=")[0]], id=f"--set={item}"[:40])
    for item in SET
]
ROWS += [
    pytest.param([*command, space], [space[:20]], id=f"{' '.join(command)} {space}"[:60])
    for command, space in product([["space", "show"], ["arch", "sample"]], SPACES)
]
READ = [
    pytest.param(
        [part.replace("{}", f"{{bad}}/{kind}{end}") for part in command],
        id=f"{name}: {kind[:8]}",
        marks=pytest.mark.skipif(NO_MMDET and command[0] == "detect", reason="needs mmdet"),
    )
    for (name, end, command), kind in product(READERS, FILES)
    if not ("preset" in name and kind == "empty")  # whose keys all have defaults
]


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file of each kind and end of name."""
    folder = tmp_path_factory.mktemp("bad")
    for end in {end for _, end, _ in READERS}:
        (folder / f"folder{end}").mkdir()
        os.mkfifo(folder / f"pipe{end}")
        (folder / f"garbage{end}").write_bytes(bytes(range(256)) * 8)
        (folder / f"empty{end}").touch()
        (folder / f"deep{end}").write_text("[" * 20_000)
        (folder / f"loop{end}").symlink_to(f"loop{end}")
    return folder


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check(outcome: Outcome, here: Path, *words: str) -> None:
    """One line that has one of the words; the command line's own errors stand in a box."""
    assert outcome.code == 2, outcome
    assert outcome.out == ""
    *found, line = outcome.err.splitlines()
    if not outcome.err.lstrip().startswith("Usage: "):
        assert all("training images" in text for text in found), outcome.err  # what was read
        assert line.startswith("mobilenas: ")
        assert len(line) < 1500
    assert any(word in outcome.err for word in words), outcome.err
    assert list(here.iterdir()) == []


@pytest.mark.timeout(30)
@pytest.mark.parametrize(("arguments", "words"), ROWS)
def test_a_value_is_refused(arguments: list[str], words: list[str], call: Call, here: Path) -> None:
    check(call(*arguments), here, *words)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("arguments", READ)
def test_a_file_is_refused(arguments: list[str], call: Call, here: Path, bad: Path) -> None:
    arguments = [part.replace("{bad}", str(bad)) for part in arguments]
    check(call(*arguments), here, str(bad))


def test_a_terminal_that_knows_few_letters_is_written_to(here: Path) -> None:
    space = load_space(TINY_SPACE).to_dict() | {"name": "größe"}
    (here / "space.yaml").write_text(yaml.safe_dump(space, allow_unicode=True), encoding="utf-8")
    shown = subprocess.run(
        command("space", "show", "space.yaml"),
        env=ENVIRONMENT | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
    )
    assert shown.returncode == 0, shown.stderr
    assert "gr\\xf6\\xdfe" in shown.stdout


def test_there_are_enough_rows() -> None:
    assert len(ROWS) + len(READ) > 500
