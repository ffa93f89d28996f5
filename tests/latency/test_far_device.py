"""A device behind an actor of a Ray that is made up: what is tried again, and what is refused."""

from dataclasses import dataclass, field
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest
from test_build import TWO

from mobilenas import __version__
from mobilenas.latency.devices import DeviceSettings
from mobilenas.latency.farm import DeviceLost, FarDevice
from mobilenas.latency.graphs import row_jobs
from mobilenas.space import space_from_dict

SPACE = space_from_dict(TWO)
JOB = row_jobs(SPACE, 1)[0]


class Failed(Exception):
    """Ray's error of any kind."""


class TaskFailed(Failed):
    """Ray's error of what was asked for; its actor lives on."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(f"a traceback\n{cause}")
        self.cause = cause


@dataclass
class MadeUpRay:
    """answers: what each `time` of any actor gives or raises. hosts: what each look at them finds,
    the last one for ever.
    """

    answers: list[Any]
    hosts: list[list[dict[str, Any]]]
    version: str = __version__
    started: list[dict[str, Any]] = field(default_factory=list)

    @property
    def exceptions(self) -> Any:
        return SimpleNamespace(RayError=Failed, RayTaskError=TaskFailed)

    def nodes(self) -> list[dict[str, Any]]:
        return self.hosts.pop(0) if len(self.hosts) > 1 else self.hosts[0]

    def remote(self, _: type) -> Any:
        return self

    def options(self, **options: Any) -> Any:
        self.started.append(options)
        about = {"version": "1", "processor": "p", "mobilenas": self.version}
        time = SimpleNamespace(remote=lambda key, seconds: self.answers.pop(0))
        actor = SimpleNamespace(about=SimpleNamespace(remote=lambda: about), time=time)
        return SimpleNamespace(remote=lambda settings, time_limit: actor)

    def get(self, answer: Any, timeout: float | None = None) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    def kill(self, _: Any) -> None:
        pass


def host(cores: int = 4, alive: bool = True, **labels: str) -> dict[str, Any]:
    return {"Alive": alive, "Resources": {"CPU": cores, "usb": 2}, "Labels": labels}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mobilenas.latency.farm.PAUSES", (0.0, 0.0, 0.0))


def far(ray: MadeUpRay, **settings: Any) -> FarDevice:
    device = DeviceSettings(name="x", **settings)
    found = FarDevice(ray, device, device.of(SPACE, 0), Event())
    found.open()
    return found


GONE = Failed("the node has died")


def test_an_actor_is_started_anew_where_it_is_gone_and_not_where_its_device_failed() -> None:
    loose = TaskFailed(ValueError("the cable is loose"))
    ray = MadeUpRay([loose, GONE, loose, [1.0]], [[host()]])
    assert far(ray).time(JOB, 0.1) == [1.0]
    assert len(ray.started) == 2


def test_a_host_that_comes_back_in_time_goes_on() -> None:
    lab = host(name="lab")
    ray = MadeUpRay([GONE, [2.0]], [[lab], [host()], [host(alive=False, name="lab")], [lab]])
    assert far(ray, labels={"name": "lab"}).time(JOB, 0.1) == [2.0]


def test_a_device_that_fails_four_times_is_lost_with_its_reason() -> None:
    ray = MadeUpRay([TaskFailed(ValueError("no such device"))] * 9, [[host()]])
    with pytest.raises(DeviceLost, match=r"^no such device$"):
        far(ray).time(JOB, 0.1)
    assert len(ray.answers) == 5


def test_a_runtime_of_the_host_has_all_its_cores_and_a_command_none() -> None:
    ray = MadeUpRay([], [[host(8, name="a"), host(16, name="b")]])
    far(ray, labels={"name": "a"}, resources={"usb": 1})
    far(ray, runtime="command", command="time {model}")
    assert [options["num_cpus"] for options in ray.started] == [8, 0]
    assert ray.started[0]["label_selector"] == {"name": "a"}
    assert ray.started[0]["resources"] == {"usb": 1}


def test_hosts_that_are_not_there_and_other_versions_are_named() -> None:
    ray = MadeUpRay([], [[host(name="a"), host(alive=False, name="b")]])
    for settings in ({"labels": {"name": "b"}}, {"resources": {"usb": 3}}):
        with pytest.raises(DeviceLost, match=r"no host of the cluster has (name=b|usb=3)"):
            far(ray, **settings)
    with pytest.raises(DeviceLost, match=f"has mobilenas 0.0.1, here is {__version__}"):
        far(MadeUpRay([], [[host()]], version="0.0.1"))
