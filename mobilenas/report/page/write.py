"""The page itself: a template, a style and a script, in one file that needs no network."""

import base64
import io
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mobilenas.base.errors import BadInput
from mobilenas.base.files import check_replaceable, write_atomic
from mobilenas.base.units import format_size
from mobilenas.cost.titles import format_cost
from mobilenas.report.page.figures import draw_figures
from mobilenas.report.page.summary import cost_words, limit_words, percent, precision, stand_alone

_HERE = Path(__file__).parent
_LARGEST = 8_000_000  # bytes of a page: what mail and chat still take
_PICTURE = (480, 75)  # of a drawing: longest side in pixels, quality as JPEG


def write_page(content: Mapping[str, Any], path: Path) -> None:
    """Write the page atomically. Raises BadInput where it would be larger than can be handed on."""
    check_replaceable(path)
    page = render(content).encode(errors="backslashreplace")  # names of folders may be any bytes
    size = len(page)
    if size > _LARGEST:
        raise BadInput(
            f"{path} would have {format_size(size)}B, more than {format_size(_LARGEST)}B: give "
            "fewer runs"
        )
    write_atomic(path, lambda file: file.write(page))


def render(content: Mapping[str, Any]) -> str:
    """The page of a content, as HTML. All text of it is escaped, in the page and in figures."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "cost": lambda value, name: format_cost(name, value),
        "cost_title": cost_words,
        "limits": limit_words,
        "percent": percent,
        "precision": precision,
        "unbroken": lambda text: text.replace(" %", "\u00a0%").replace("≤ ", "≤\u00a0"),
        "stand_alone": stand_alone,
        "size": format_size,
        "picture": _picture,
        "duration": _duration,
    }
    return environment.get_template("page.html.j2").render(
        content,
        drawn=draw_figures(dict(content)),
        beside=[arch | {"shown": _shown(arch["costs"])} for arch in content["archs"]],
        kernels=_kernels(content["archs"]),
        made=datetime.now(UTC).strftime("%Y-%m-%d"),
        plotly=get_plotlyjs(),
        script=(_HERE / "page.js").read_text(encoding="utf-8"),
        style=(_HERE / "page.css").read_text(encoding="utf-8"),
    )


def _shown(costs: Mapping[str, float]) -> dict[str, dict[str, str]]:
    """Costs for a reader, for the script that compares archs."""
    return {c: {"title": cost_words(c), "text": format_cost(c, x)} for c, x in costs.items()}


def _kernels(archs: Iterable[Mapping[str, Any]]) -> list[int]:
    """The sizes of kernels in the drawings of archs."""
    drawings = [arch["drawing"] for arch in archs if arch["drawing"]]
    blocks = [block for drawing in drawings for block in drawing.get("blocks", [])]
    return sorted({k for block in blocks for group in block["kernels"] for k in group})


def _picture(path: str) -> str | None:
    """An image file as a small JPEG in a data address; None where it is damaged or gone."""
    from PIL import Image

    side, quality = _PICTURE
    try:
        with Image.open(path) as image:
            small = image.convert("RGB")
    except Exception:  # Pillow has many kinds of errors for damaged files
        return None
    small.thumbnail((side, side))
    file = io.BytesIO()
    small.save(file, format="JPEG", quality=quality)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _duration(seconds: float) -> str:
    """A time of work: 62 s, 12.4 min, 3.1 h."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"
