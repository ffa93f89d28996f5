"""Workers on a Ray cluster: one of this machine, as `--workers ray` starts it, that is also there
under an address.
"""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from helpers import ALONE, ENVIRONMENT, ROOT, TINY_SPACE, Call, Job, check_refused, mobilenas
from listening import LOOPBACK, listened_on
from odd_work import opened

from mobilenas.base.errors import BadInput
from mobilenas.workers import WorkersAsked, cluster, open_workers

pytest.importorskip("ray", reason="pip install '.[dist]'")

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
# Two nodes of one core each; the second one is killed at a word.
TWO_NODES = """
import sys
import ray
from ray.cluster_utils import Cluster
small = {"num_cpus": 1, "object_store_memory": 100 << 20}
cluster = Cluster(initialize_head=True, head_node_args=small | {"include_dashboard": False})
second = cluster.add_node(**small)
ray.init(address=cluster.address, log_to_driver=False)
ray.shutdown = lambda *_: None
from ray.util.client.server.server import serve
server = serve("127.0.0.1", int(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
cluster.remove_node(second, allow_graceful=False)
sys.stdin.read()
cluster.shutdown()
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def serving(script: str) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """The address of a cluster, and the process of its script."""
    port = free_port()
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    settings = {"PYTHONPATH": path, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(port)],
        env=ENVIRONMENT | settings,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdin is not None
        lines = iter(process.stdout.readline, "")
        assert any(line == "ready\n" for line in lines)
        yield f"ray://127.0.0.1:{port}", process
        process.stdin.close()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving(CLUSTER) as (place, process):
        there = listened_on(process.pid)
        assert there and there <= LOOPBACK
        yield place


def test_a_node_that_is_killed_with_its_worker(tmp_path: Path) -> None:
    items = [f"slow-{number}" for number in range(40)]
    with serving(TWO_NODES) as (place, process):
        asked = WorkersAsked.parse(place)
        with open_workers(asked, partial(opened, str(tmp_path)), 1) as workers:
            assert workers.count == 2
            coming = workers("measure", [[item] for item in items])
            outcomes, processes = [], set[str]()
            while len(processes) < 2:  # until both nodes are at work
                outcomes.append(next(coming))
                processes = {line for file in tmp_path.iterdir() for line in file.open()}
            assert process.stdin is not None
            process.stdin.write("kill\n")
            process.stdin.flush()
            outcomes += coming
    assert all(x.results == [len(x.items[0])] for x in outcomes)
    assert sorted(item for x in outcomes for item in x.items) == sorted(items)
    tries = [len((tmp_path / item).read_text().splitlines()) for item in items]
    assert max(tries) == 2  # what the lost worker was doing


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


def test_a_worker_with_more_threads_than_any_machine_has_cores_is_refused(
    address: str, tmp_path: Path
) -> None:
    make, asked = partial(opened, str(tmp_path)), WorkersAsked.parse(address)
    words = r"with 9999 threads takes as many cores .* the largest of the Ray cluster has [1-9]"
    with pytest.raises(BadInput, match=words), open_workers(asked, make, 9999):
        pass


def test_workers_are_counted_on_each_machine() -> None:
    cores, dead = [3, 3, 1], {"Alive": False, "Resources": {"CPU": 8.0}}
    nodes = [{"Alive": True, "Resources": {"CPU": float(count)}} for count in cores]
    assert cluster._count([*nodes, dead, {"Alive": True, "Resources": {}}], 2) == 2
    with pytest.raises(BadInput, match=r"with 4 threads .* has 3: set OMP_NUM_THREADS"):
        cluster._count([*nodes, dead], 4)


def test_a_search_finds_what_it_finds_without(address: str, job: Job, tmp_path: Path) -> None:
    out = tmp_path / "evolve"
    asked = ("evolve", f"--supernet={job.supernet}", "--flops=1.2M", "--params=90k")
    small = ("--population=6", "--generations=3", f"--out={out}", f"--workers={address}", "--json")
    done = mobilenas(*asked, *small)
    assert done.code == 0, done.err
    assert json.loads(done.out)["front"] == job.searched["front"]
    assert (out / "front.json").read_bytes() == (job.search / "front.json").read_bytes()


def test_trainings_on_ray_are_those_of_this_machine(address: str, tmp_path: Path) -> None:
    found = {}
    for name, workers in (("ray", address), ("here", "1")):
        asked = ("truth", f"--space={TINY_SPACE}", "-n1", *ALONE, f"--workers={workers}")
        done = mobilenas(*asked, f"--out={tmp_path / name}")
        assert done.code == 0, done.err
        found[name] = (tmp_path / name / "truth.csv").read_bytes()
    assert found["ray"] == found["here"]


def test_where_no_ray_is(job: Job, tmp_path: Path, call: Call) -> None:
    address = f"ray://127.0.0.1:{free_port()}"
    asked = ("evolve", f"--supernet={job.supernet}", f"--out={tmp_path / 'evolve'}")
    refused = call(*asked, f"--workers={address}")
    check_refused(refused, f"address {address}: no Ray is there", "refused")
