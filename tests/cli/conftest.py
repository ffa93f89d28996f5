"""Running a command in this process, and one small job that the tests of the commands share."""

import logging
import sys

import pytest
from helpers import (
    ALONE,
    TINY,
    TINY_ARCH,
    TINY_SPACE,
    Call,
    Job,
    Outcome,
    Trained,
    mobilenas_json,
)

from mobilenas import cli


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run a command in this process. What `main` does not catch is raised: it is a traceback."""

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        level = logging.root.level
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["mobilenas", *map(str, arguments)])
            patch.setattr(cli, "tune_process", lambda: None)
            patch.setattr(logging.root, "handlers", [])  # pytest's, in whose place main puts one
            patch.setenv("COLUMNS", "200")
            with pytest.raises(SystemExit) as stopped:
                cli.main()
        logging.root.setLevel(level)
        code = stopped.value.code
        assert code is None or isinstance(code, int)
        return Outcome(code or 0, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """Made once, in processes of its own; tests read it and leave it as it is."""
    folder = tmp_path_factory.mktemp("job")
    supernet, search = folder / "supernet", folder / "evolve"
    train = ("supernet-train", f"--space={TINY_SPACE}", *TINY, "--set=passes=3")
    return Job(
        folder,
        mobilenas_json(*train, f"--out={supernet}"),
        mobilenas_json(
            *("evolve", f"--supernet={supernet}", "--flops=1.2M", "--params=90k"),
            *("--population=6", "--generations=3", f"--out={search}"),
        ),
        mobilenas_json("export", "--onnx", f"--run={search}", "--pick=knee"),
    )


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Made once, in a process of its own; tests read it and leave it as it is."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    train = ("train", f"--space={TINY_SPACE}", f"--arch={TINY_ARCH}", *ALONE, "--seed=3")
    return Trained(folder, mobilenas_json(*train, f"--out={folder}"))
