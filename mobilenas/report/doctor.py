"""What `mobilenas doctor` found, as a table for the terminal."""

from collections.abc import Iterator
from typing import Any

from mobilenas.report.text import table

_SHOWN = 6  # packages that a row names
_DEVELOPERS = "dev"  # the extra of those who change mobilenas


def describe_doctor(facts: dict[str, Any]) -> str:
    """One row a part: whether it works, and how that is known."""
    rows = [dict(zip(("part", "state", "details"), row, strict=True)) for row in _rows(facts)]
    return table(rows, {key: key for key in rows[0]})


def _rows(facts: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    yield "mobilenas", facts["mobilenas"], facts["folder"]
    yield "python", facts["python"], facts["system"]
    yield "torch", facts["torch"], f"built for {facts['torch_for']}"
    cores = f"{facts['cores']} cores, {facts['threads']} threads of torch"
    yield "processor", "yes", f"{facts['processor']}, {cores}"
    for each in facts["accelerators"]:
        yield each["device"], _state(each), each.get("problem", f"{each['name']}, a sum ran on it")
    if not facts["accelerators"]:
        yield "accelerator", "no", "torch sees none: training is on the CPU"
    yield "kernels", *_kernels(facts["kernels"])
    yield "libraries", *_packages(facts["libraries"])
    for name, packages in facts["extras"].items():
        if name == _DEVELOPERS:
            continue
        whole, details = _packages(packages)
        how = f": pip install '.[{name}]' in the checkout" if whole == "no" else ""
        yield f"extra {name}", whole, details + how
    for name, each in facts["runtimes"].items():
        yield f"runtime {name}", _state(each), _runtime(each)
    if facts["detection"] is not None:
        problem = facts["detection"].get("problem", "mmdet was imported")
        yield "detection", _state(facts["detection"]), problem
    yield "latency tables", *_tables(facts["latency_tables"])
    root = facts["MOBILENAS_DATA"]
    if root["path"] is None:
        yield "MOBILENAS_DATA", "no", "not set: benchmarks' files are found by --data-root"
    else:
        state, what = ("yes", "a folder") if root["is_folder"] else ("broken", "no folder")
        yield "MOBILENAS_DATA", state, f"{root['path']}, {what}"


def _state(part: dict[str, Any]) -> str:
    """In a word; parts that are there and were not tried are `installed`."""
    if part.get("installed") is False:
        return "no"
    return {True: "yes", False: "broken", None: "installed"}[part["ran"]]


def _kernels(kernels: dict[str, Any]) -> tuple[str, str]:
    if kernels["loaded"]:
        return "yes", f"compiled for {kernels['processor']}, loaded"
    return "no", f"none for {kernels['processor']}: torch's operators train, slower"


def _packages(packages: dict[str, dict[str, Any]]) -> tuple[str, str]:
    """Whether all are there in versions that fit; those that are not, else their versions."""
    wrong = [
        f"{name}{package['needs']} ({package['version'] or 'missing'})"
        for name, package in packages.items()
        if not package["fits"]
    ]
    if wrong:
        return "no", ", ".join(wrong)
    if len(packages) > _SHOWN:
        return "installed", f"{len(packages)} packages, in versions that fit"
    return "installed", ", ".join(f"{name} {x['version']}" for name, x in packages.items())


def _runtime(runtime: dict[str, Any]) -> str:
    if "version" not in runtime:
        return str(runtime["problem"])
    words = [f"{runtime['version']}, {'/'.join(runtime['dtypes'])}"]
    if runtime["stand_in"]:
        words.append(f"its files are run by {runtime['stand_in']} here")
    if runtime["ran"]:
        words.append("a small network came out as of torch")
    elif runtime["ran"] is None:
        words.append("not tried: --try does")
    else:
        words.append(runtime["problem"])
    return ", ".join(words)


def _tables(tables: dict[str, dict[str, Any]]) -> tuple[str, str]:
    broken = [table["problem"] for table in tables.values() if "problem" in table]
    if broken:
        return "broken", "; ".join(broken)
    return ("yes", ", ".join(tables)) if tables else ("no", "`mobilenas latency build` makes them")
