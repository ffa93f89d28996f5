"""Workers on a Ray cluster: one of this machine, as `--workers ray` starts it, that is also there
under an address.
"""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from helpers import ENVIRONMENT, ROOT, Call, Job, check_refused, mobilenas
from listening import LOOPBACK, listened_on
from odd_work import opened

from mobilenas.base.errors import BadInput
from mobilenas.workers import WorkersAsked, cluster, open_workers

pytest.importorskip("ray", reason="pip install 'mobilenas[dist]'")

CLUSTER = """
import sys
from mobilenas.base.cluster import connected
with connected(None) as ray:
    from ray.util.client.server.server import serve
    ray.shutdown = lambda *_: None  # which the server calls when a client goes and it has no other
    server = serve("127.0.0.1", int(sys.argv[1]))
    print("ready", file=sys.__stdout__, flush=True)
    sys.stdin.read()
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    port = free_port()
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER, str(port)],
        env=ENVIRONMENT | {"PYTHONPATH": path, "RAY_AUTH_MODE": "disabled"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdin is not None
        lines = iter(process.stdout.readline, "")
        assert any(line == "ready\n" for line in lines)
        there = listened_on(process.pid)
        assert there and there <= LOOPBACK
        yield f"ray://127.0.0.1:{port}"
        process.stdin.close()


def test_a_killed_actor_a_bad_item_and_one_that_hangs(address: str, tmp_path: Path) -> None:
    groups = [["a", "bb"], ["kill", "ccc"], ["bad-1"], ["hang"]]
    asked = WorkersAsked.parse(address, timeout=15)
    with open_workers(asked, partial(opened, str(tmp_path)), 1) as workers:
        outcomes = list(workers("measure", groups))
    failed = [(x.items, x.why) for x in outcomes if x.results is None]
    assert [items for items, _ in failed] == [("bad-1",)]
    assert failed[0][1].startswith("ValueError: bad-1 is bad (odd_work.py:")
    found = [pair for x in outcomes if x.results for pair in zip(x.items, x.results, strict=True)]
    assert sorted(found) == [("a", 1), ("bb", 2), ("ccc", 3), ("hang", 4), ("kill", 4)]
    for item in ("kill", "hang"):
        assert len(set((tmp_path / item).read_text().splitlines())) == 2


def test_another_version_is_refused(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "__version__", "0.0.1")
    make, asked = partial(opened, str(tmp_path)), WorkersAsked.parse(address)
    with (
        pytest.raises(BadInput, match=r"has mobilenas .*, this machine mobilenas 0\.0\.1: install"),
        open_workers(asked, make, 1),
    ):
        pass


def test_a_search_finds_what_it_finds_without(address: str, job: Job, tmp_path: Path) -> None:
    out = tmp_path / "evolve"
    asked = ("evolve", f"--supernet={job.supernet}", "--flops=1.2M", "--params=90k")
    small = ("--population=6", "--generations=3", f"--out={out}", f"--workers={address}", "--json")
    done = mobilenas(*asked, *small)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["front"] == job.searched["front"]
    assert (out / "front.json").read_bytes() == (job.search / "front.json").read_bytes()


def test_where_no_ray_is(job: Job, tmp_path: Path, call: Call) -> None:
    address = f"ray://127.0.0.1:{free_port()}"
    asked = ("evolve", f"--supernet={job.supernet}", f"--out={tmp_path / 'evolve'}")
    refused = call(*asked, f"--workers={address}")
    check_refused(refused, f"address {address}: no Ray is there", "refused")
