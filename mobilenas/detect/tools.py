"""mmdet's own tools, where its ops and our backbone are there before anything is imported.

    python -m mobilenas.detect.tools test runs/detect/config.py runs/detect/checkpoint.pth

runs tools/test.py of the installed mmdet with the arguments that follow its name. (Python imports
the package before this module, which prepares all.)
"""

import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

import mmdet

from mobilenas.base.errors import BadInput


def tools() -> dict[str, Path]:
    """The Python tools of the installed mmdet by name, those of its analysis_tools included."""
    folder = Path(mmdet.__file__).parent / ".mim" / "tools"
    return {path.stem: path for path in sorted(folder.rglob("*.py"))}


def run_tool(arguments: Sequence[str]) -> None:
    """Run a tool, its name first, as if it were called itself.

    Raises BadInput for another name, and for a tool that needs what is not installed.
    """
    known = tools()
    name = arguments[0] if arguments else ""
    if name not in known:
        raise BadInput(f"{name!r} is no tool of mmdet; there are {', '.join(known)}")
    sys.argv = [str(known[name]), *arguments[1:]]
    sys.path.insert(0, str(known[name].parent))  # as for a script
    try:
        runpy.run_path(str(known[name]), run_name="__main__")
    except ModuleNotFoundError as error:
        raise BadInput(f"the tool {name} needs {error.name}, which is not installed") from None


if __name__ == "__main__":
    try:
        run_tool(sys.argv[1:])
    except BadInput as error:
        print(f"mobilenas.detect.tools: {error}", file=sys.stderr)
        sys.exit(2)
