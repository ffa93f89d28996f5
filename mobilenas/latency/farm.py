"""Many devices at once, on whichever hosts they hang: one Ray actor a device.

The driver has a thread for each device, in which a table is built or checked as on one device: what
is timed next, the log and the fit are all here. An actor makes the files on its host and times
them; of a job it gets the key. A device that fails is tried again, then put aside with its reason.
"""

import logging
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import cached_property
from pathlib import Path
from threading import Event
from typing import Any, TypeVar

from mobilenas import __version__
from mobilenas.base.cluster import connected
from mobilenas.base.errors import BadInput, one_line, shortened
from mobilenas.latency.build import BuildSettings
from mobilenas.latency.devices import DeviceSettings
from mobilenas.latency.graphs import Job, network_job, row_jobs
from mobilenas.latency.timer import Host
from mobilenas.space import space_from_dict

T = TypeVar("T")
# Seconds to wait before a device is tried again: it may be a cable, or a phone that starts anew.
PAUSES = (1.0, 10.0, 60.0)
_SLACK = 60.0  # seconds beyond a device's time limit, in which the file of a job is made

log = logging.getLogger(__name__)


class DeviceLost(RuntimeError):
    """A device failed as often as it was tried, or has no host; the message says how."""


class DeviceActor:
    """A device, in a process on its host. Jobs are known by their keys: rows and archs."""

    def __init__(self, settings: dict[str, Any], time_limit: float) -> None:
        self._settings = BuildSettings(**settings)
        self._time_limit = time_limit
        self._folder = tempfile.TemporaryDirectory(prefix="mobilenas")

    def about(self) -> dict[str, str]:
        """Versions and processor. Raises BadInput where its runtime is not installed."""
        return {
            "version": self._host.version,
            "processor": self._host.processor,
            "mobilenas": __version__,
        }

    def prepare(self, key: str) -> None:
        """As `Device` says."""
        self._host.prepare(self._job(key))

    def time(self, key: str, seconds: float) -> Sequence[float]:
        """As `Device` says; the file is made anew where the actor is."""
        job = self._job(key)
        self._host.prepare(job)
        return self._host.time(job, seconds)

    def discard(self, keys: Sequence[str]) -> None:
        """As `Device` says."""
        self._host.discard([self._job(key) for key in keys])

    @cached_property
    def _host(self) -> Host:
        return self._settings.host(Path(self._folder.name), self._time_limit)

    @cached_property
    def _rows(self) -> dict[str, Job]:
        space = space_from_dict(self._settings.space)
        return {job.key: job for job in row_jobs(space, self._settings.batch)}

    def _job(self, key: str) -> Job:
        if key in self._rows:
            return self._rows[key]
        space = space_from_dict(self._settings.space)
        return network_job(space, space.parse(key), self._settings.batch)


class FarDevice:
    """A `Device` behind its actor, which is started anew when it or its host is gone.

    stopping: set when nothing is to be asked any more. Raises DeviceLost wherever it is asked.
    """

    def __init__(
        self, ray: Any, device: DeviceSettings, settings: BuildSettings, stopping: Event
    ) -> None:
        self._ray = ray
        self._device = device
        self._settings = settings
        self._stopping = stopping
        self.runtime: str = device.runtime
        self.version = self.processor = ""
        self._actor: Any = None

    def open(self) -> None:
        """Wait until its host has the cores that it asks for, and learn what is there."""
        self._actor = self._start()
        try:
            about = self._ray.get(self._actor.about.remote())
        except self._ray.exceptions.RayError as error:
            raise DeviceLost(_reason(error)) from None
        if about["mobilenas"] != __version__:
            raise DeviceLost(f"its host has mobilenas {about['mobilenas']}, here is {__version__}")
        self.version, self.processor = about["version"], about["processor"]

    def prepare(self, job: Job) -> None:
        """As `Device` says."""
        self._call("prepare", job.key)

    def time(self, job: Job, seconds: float) -> list[float]:
        """As `Device` says."""
        times: list[float] = self._call("time", job.key, seconds)
        return times

    def discard(self, jobs: Sequence[Job]) -> None:
        """As `Device` says."""
        self._call("discard", [job.key for job in jobs])

    def close(self) -> None:
        """End the actor, whatever it does; what is asked of it now raises DeviceLost."""
        if self._actor is not None:
            self._ray.kill(self._actor)
            self._actor = None

    def _call(self, method: str, *arguments: object) -> Any:
        errors, limit = self._ray.exceptions, self._device.time_limit + _SLACK
        reason = ""
        for pause in (0.0, *PAUSES):
            if reason:
                name = self._device.name
                log.warning("%s: %s; it is tried again in %g s", name, reason, pause)
            if self._stopping.wait(pause):
                break
            try:
                self._actor = self._actor or self._start()
                asked = getattr(self._actor, method).remote(*arguments)
                return self._ray.get(asked, timeout=limit)
            except DeviceLost as error:
                reason = str(error)
            except errors.RayError as error:
                reason = _reason(error)
                if not isinstance(error, errors.RayTaskError):  # its actor failed, not the device
                    self.close()
        raise DeviceLost(reason)

    def _start(self) -> Any:
        device, cores = self._device, 0.0
        hosts = [node["Resources"] for node in self._ray.nodes() if _has(node, device)]
        if not hosts:
            needs = ", ".join(f"{k}={v}" for k, v in {**device.labels, **device.resources}.items())
            raise DeviceLost(f"no host of the cluster has {needs}")
        if device.runtime != "command":  # it has the host to itself
            cores = max(host.get("CPU", 0.0) for host in hosts)
        actor = self._ray.remote(DeviceActor).options(
            num_cpus=cores,
            resources=device.resources,
            label_selector=device.labels or None,
            max_restarts=0,
        )
        return actor.remote(self._settings.model_dump(mode="json"), device.time_limit)


def on_devices(
    address: str | None,
    devices: Sequence[DeviceSettings],
    settings: Sequence[BuildSettings],
    work: Callable[[BuildSettings, FarDevice], T],
) -> tuple[dict[str, T], dict[str, str]]:
    """`work(settings, device)` for every device at once: results by name of the device, and the
    reasons of those that came to none.

    address: as `connected` takes it. Raises BadInput where there is no Ray.
    """
    results: dict[str, T] = {}
    failed: dict[str, str] = {}
    started: list[FarDevice] = []
    stopping = Event()

    def one(ray: Any, device: DeviceSettings, its: BuildSettings) -> None:
        far = FarDevice(ray, device, its, stopping)
        started.append(far)
        try:
            far.open()
            results[device.name] = work(its, far)
        except (BadInput, DeviceLost) as error:
            if not stopping.is_set():
                failed[device.name] = str(error)
                log.warning("%s is put aside: %s", device.name, error)
        finally:
            far.close()

    with connected(address) as ray, ThreadPoolExecutor(len(devices)) as pool:
        futures = [pool.submit(one, ray, *both) for both in zip(devices, settings, strict=True)]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            stopping.set()
            for far in started:
                far.close()
            raise
    in_order = {x.name: results[x.name] for x in devices if x.name in results}
    return in_order, failed


def _has(node: dict[str, Any], device: DeviceSettings) -> bool:
    return (
        node["Alive"]
        and device.labels.items() <= node["Labels"].items()
        and all(node["Resources"].get(k, 0) >= v for k, v in device.resources.items())
    )


def _reason(error: Exception) -> str:
    """What a device failed by, from Ray's error."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, Exception):
        return one_line(cause)
    if type(error).__name__ == "GetTimeoutError":
        return "it does not answer"
    last = str(error).strip().splitlines()[-1]  # above it is the traceback
    return shortened(f"its process or host is gone: {last}")
