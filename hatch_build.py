"""Compiles the kernels of `mobilenas.nn.kernels` while the package is installed.

Without a compiler the installation succeeds all the same, and training is slower.
"""

import runpy
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class KernelsHook(BuildHookInterface):  # type: ignore[type-arg]
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        # By its path, for what the package needs is not here.
        module = runpy.run_path(str(Path(self.root, "mobilenas", "nn", "kernels", "build.py")))
        try:
            libraries = module["build"]()
        except module["NotBuilt"] as error:
            self.app.display_warning(f"no kernels: {error}")
            return
        build_data["artifacts"] += [f"/{path.relative_to(self.root)}" for path in libraries]
        build_data["pure_python"] = False
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{platform}"  # no Python is in them
