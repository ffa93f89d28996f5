"""The file of devices: which there are, and how each is reached from which host."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from mobilenas.base.errors import BadInput
from mobilenas.base.plain import read_yaml
from mobilenas.base.settings import Record, validated
from mobilenas.latency.build import BuildSettings, check_name, in_names
from mobilenas.latency.timer import check_command
from mobilenas.runtimes.command import TIME_LIMIT
from mobilenas.space import Space


class DeviceSettings(Record):
    """A device. time_limit: seconds that one timing may take, after which it is tried again.

    labels, resources: what Ray must know of the host that it hangs on (`ray start --labels`,
    `--resources`).
    """

    name: str
    runtime: Literal["onnxruntime", "executorch", "command"] = "onnxruntime"
    dtype: Literal["fp32", "int8"] = "fp32"
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    batch: Annotated[int, Field(ge=1, le=4096)] = 1
    command: str | None = None
    time_limit: Annotated[float, Field(gt=0, le=86400)] = TIME_LIMIT
    labels: Annotated[dict[str, str], Field(default_factory=dict)]
    resources: Annotated[dict[str, Annotated[float, Field(gt=0)]], Field(default_factory=dict)]

    def of(self, space: Space, seed: int) -> BuildSettings:
        """What a table of a space is made with on it."""
        return BuildSettings(
            space=space.to_dict(),
            device=self.name,
            runtime=self.runtime,
            dtype=self.dtype,
            threads=self.threads,
            batch=self.batch,
            seed=seed,
            command=self.command,
        )


class Devices(Record):
    """All of them. address: of the Ray cluster that they hang on; None is this host alone."""

    address: str | None = None
    devices: Annotated[list[dict[str, Any]], Field(min_length=1)]


def read_devices(path: Path) -> tuple[str | None, list[DeviceSettings]]:
    """The address and the devices of a YAML file. Raises BadInput naming file, device and key."""
    file = validated(Devices, read_yaml(path), path)
    devices: list[DeviceSettings] = []
    for number, data in enumerate(file.devices, start=1):
        where = f"{path}: device {data.get('name', number)}"
        device = validated(DeviceSettings, data, where, "the device")
        check_name(device.name, f"{path}: name")
        try:
            check_command(device.runtime, device.command)
        except BadInput as error:
            raise BadInput(f"{where}: {str(error).replace('--command', 'command')}") from None
        for other in devices:
            if in_names(device.name) == in_names(other.name):
                raise BadInput(f"{where}: its tables would have the names of those of {other.name}")
        if file.address is None and (device.labels or device.resources):
            raise BadInput(
                f"{where}: labels and resources choose a host of a cluster, and {path} has no "
                "address of one"
            )
        devices.append(device)
    return file.address, devices
