"""Many devices at once: stand-ins of different speed and faults, each a script behind a command."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from listening import LOOPBACK, listened_on
from test_build import TWO

from mobilenas.base.cluster import connected
from mobilenas.base.errors import BadInput
from mobilenas.cost.latency import LatencyTable
from mobilenas.latency.build import BuildSettings, build_table
from mobilenas.latency.devices import DeviceSettings, read_devices
from mobilenas.latency.farm import FarDevice, on_devices
from mobilenas.runs.folder import is_run
from mobilenas.space import space_from_dict

SPACE = TWO | {
    "name": "some",
    "candidates": ["e2k3", "e2k5", "e2k7"],
    "stages": [{"channels": 4}, {"channels": 8}],
}
# A microsecond a byte of the file, times `speed`; the fault comes at the call of this number.
DEVICE = """
import os, signal, sys, time
from pathlib import Path
model, speed, fault, state = sys.argv[1:]
with open(state, "a") as file:
    calls = file.tell()
    file.write("x")
if os.path.exists("mended"):
    fault = ""
if fault == "fails twice" and calls in (5, 6):
    sys.exit("the cable is loose")
if fault == "dies" and calls >= 5:
    sys.exit("no such device")
if fault == "hangs" and calls >= 5:
    time.sleep(60)
if fault == "ends its process" and calls == 5:
    pid = os.getppid()
    while b"ray::" not in Path(f"/proc/{pid}/cmdline").read_bytes():
        pid = int(Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[1])
    os.kill(pid, signal.SIGKILL)
    time.sleep(60)
print(os.path.getsize(model) * float(speed) / 1000)
"""


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if find_spec("ray") is None:  # which must not be imported before `connected` does
        pytest.skip("the extra `dist` is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mobilenas.latency.farm.PAUSES", (0.05, 0.1, 0.2))
    monkeypatch.setattr("mobilenas.latency.build.ROW_ROUNDS", 2)
    monkeypatch.setattr("mobilenas.latency.build.NETWORK_ROUNDS", 1)
    Path("device.py").write_text(DEVICE)


def device(name: str, speed: float, fault: str = "none", **more: Any) -> DeviceSettings:
    here = Path.cwd()
    command = f"cd {here} && {sys.executable} -ISE device.py {{model}} {speed} '{fault}' {name}.txt"
    return DeviceSettings(name=name, runtime="command", command=command, **more)


def build(its: BuildSettings, far: FarDevice | None, folder: str) -> LatencyTable:
    run = Path(folder) / its.device
    return build_table(its, run, budget=600, resume=is_run(run, "latency"), device=far)


@pytest.mark.timeout(600)
@pytest.mark.skipif(sys.platform != "linux", reason="finds its actor in /proc")
def test_devices_of_many_faults_have_the_tables_that_each_has_alone(
    capfd: pytest.CaptureFixture[str],
) -> None:
    devices = [
        device("quick", 1),
        device("slow", 7),
        device("loose", 2, "fails twice"),
        device("lost", 3, "ends its process"),
        device("dead", 4, "dies"),
        device("stuck", 5, "hangs", time_limit=1),
    ]
    space = space_from_dict(SPACE)
    settings = [each.of(space, seed=0) for each in devices]
    built, failed = on_devices(None, devices, settings, lambda its, far: build(its, far, "farm"))
    assert capfd.readouterr().out == ""
    assert set(built) == {"quick", "slow", "loose", "lost"}
    assert failed["dead"].endswith("no such device") and "longer than 1 s" in failed["stuck"]
    kept = {name: visits(name) for name in ("dead", "stuck")}
    assert len(kept["dead"]) == 5

    Path("mended").touch()
    again, failed = on_devices(
        None, devices[-2:], settings[-2:], lambda its, far: build(its, far, "farm")
    )
    assert failed == {} and set(again) == {"dead", "stuck"}
    for name, lines in kept.items():
        assert visits(name)[: len(lines)] == lines
    for its in settings:
        assert (built | again)[its.device] == build(its, None, "alone"), its.device


def visits(name: str) -> list[str]:
    return Path("farm", name, "timings.jsonl").read_text().splitlines()


def test_a_runtime_of_the_host_is_timed_beside_devices_and_an_error_stops_all() -> None:
    devices = [DeviceSettings(name="here"), device("quick", 1)]
    space = space_from_dict(SPACE)
    settings = [each.of(space, seed=0) for each in devices]

    def stop(its: BuildSettings, far: FarDevice) -> None:
        if its.device == "here":
            raise OSError("no space left")
        build(its, far, "farm")

    with pytest.raises(OSError, match="no space left"):
        on_devices(None, devices, settings, stop)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_cluster_of_this_host_listens_on_loopback_only() -> None:
    script = (
        "import sys; from mobilenas.base.cluster import connected\n"
        "with connected(None) as ray:\n"
        "    ray.get(ray.remote(lambda: None).remote())\n"  # a worker has been started
        "    print('ready', file=sys.__stdout__, flush=True); input()"
    )  # in a process of its own: here ray may have been imported before
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", script], **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        there = listened_on(process.pid)
        process.communicate("\n")
    assert there and there <= LOOPBACK


GOOD = {"name": "a", "runtime": "command", "command": "time {model}"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"adress": "x", "devices": [GOOD]}, "adress: there is no such key; did you mean address?"),
        ({"devices": []}, "devices: List should have at least 1 item"),
        ({"devices": [{"nme": "a"}]}, "device 1: name: Field required"),
        (
            {"devices": [GOOD | {"comand": "x"}]},
            "device a: comand: there is no such key; did you mean command?",
        ),
        ({"devices": [GOOD | {"runtime": "tflite"}]}, "device a: runtime: .* not 'tflite'"),
        ({"devices": [GOOD | {"command": "time"}]}, "device a: command 'time' needs one of"),
        ({"devices": [{"name": "a", "command": "time {model}"}]}, "device a: runtime onnxruntime"),
        ({"devices": [GOOD, GOOD]}, "device a: its tables would have the names of those of a"),
        (
            {"devices": [GOOD | {"name": "a_b"}, GOOD | {"name": "a-b"}]},
            "device a-b: its tables would have the names of those of a_b",
        ),
        ({"devices": [GOOD | {"name": "a b"}]}, "name 'a b': must be letters"),
        ({"devices": [GOOD | {"name": "_x"}]}, "name '_x': .* start with a letter or digit"),
        ({"devices": [GOOD | {"name": "a.json"}]}, "name 'a.json': .* not end in .json"),
        ({"devices": [GOOD | {"labels": {"host": "x"}}]}, "has no address"),
        ({"devices": [GOOD | {"time_limit": 0}]}, "device a: time_limit: .* greater than 0"),
    ],
)
def test_bad_files_are_refused(content: dict[str, Any], message: str) -> None:
    Path("farm.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(BadInput, match=f"farm.yaml: .*{message}|farm.yaml: {message}"):
        read_devices(Path("farm.yaml"))


@pytest.mark.parametrize("address", ["ray://127.0.0.1:9", "127.0.0.1:9", "ray://x", "ray://a:1e9"])
def test_an_address_without_ray_is_one_line(address: str) -> None:
    with pytest.raises(BadInput, match=f"address {address}: "), connected(address):
        pass


def test_without_ray_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BadInput, match=r"pip install '\.\[dist\]'"), connected(None):
        pass
