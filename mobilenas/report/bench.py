"""Exported files against each other, for a reader."""

from typing import Any

from mobilenas.base.units import format_size
from mobilenas.report.text import table

_COLUMNS = ("file", "runtime", "input", "size", "memory", "ms", "spread", "runs", "ms/GMAC", "x")


def describe_bench(result: dict[str, Any]) -> str:
    """A line a file and what the columns are, from `Bench.to_dict()`."""
    rows = [_row(file) for file in result["files"]]
    control, threads = result["first_uncorrected"], result["threads"]
    moved = 100 * control["spread_ms"] / control["median_ms"]
    return "\n".join(
        [
            table(rows, {column: column for column in _COLUMNS}),
            f"ms: median of {result['rounds']} visits in turns, spread: their quartile range; "
            f"{threads} thread{'s' * (threads > 1)}; {result['processor']}",
            "memory: growth of a fresh process at its peak while it loads and runs the file; "
            "x: ms over those of the first file",
            f"drift removed by timing the first file in between: {control['median_ms']:.4g} ms, "
            f"quartile range {moved:.1f} %",
        ]
    )


def _row(file: dict[str, Any]) -> dict[str, str]:
    memory, per_gmac = file["memory_bytes"], file["ms_per_gmac"]
    return {
        "file": file["path"],
        "runtime": f"{file['runtime']} {file['runtime_version']}",
        "input": f"{file['input_dtype']} {'x'.join(map(str, file['input_shape']))}",
        "size": f"{format_size(file['size_bytes'])}B",
        "memory": "-" if memory is None else f"{format_size(memory)}B",
        "ms": f"{file['ms']:.4g}",
        "spread": f"{file['spread_ms']:.2g}",
        "runs": str(file["runs"]),
        "ms/GMAC": "-" if per_gmac is None else f"{per_gmac:.4g}",
        "x": f"{file['ratio']:.3f}",
    }
