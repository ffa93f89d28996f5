"""The command `bench`: exported files against each other. Heavy imports live inside."""

from pathlib import Path
from typing import Annotated

import typer

from mobilenas.cli.options import Json, print_json


def bench(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="Exported files: .onnx, .pte; any image model."),
    ],
    threads: Annotated[int, typer.Option(min=1, max=1024, help="Threads of the runtimes.")] = 1,
    rounds: Annotated[int, typer.Option(min=1, max=10**6, help="Visits of each file.")] = 20,
    resolution: Annotated[
        int | None,
        typer.Option(min=1, max=1 << 13, help="Side of the images, for graphs that take any size."),
    ] = None,
    save: Annotated[
        bool,
        typer.Option("--save", help="Store each file's figures beside it, for `mobilenas report`."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Time exported files on this host, in turns, and measure their memory.

    The first file is what the others are compared with. .onnx files run in ONNX Runtime, .pte files
    in ExecuTorch, both on the CPU, one image at a time where the batch size is free.

    Example: mobilenas bench model.onnx model-int8.onnx --threads 1
    """
    from mobilenas.base.errors import BadInput
    from mobilenas.base.files import check_writable
    from mobilenas.latency.bench import bench_files
    from mobilenas.report.bench import describe_bench
    from mobilenas.runs.beside import BENCH

    if save:
        for file in files:  # before minutes of measuring
            if not file.name:
                raise BadInput(f"{file} is not a file")
            check_writable(file.with_name(file.name + BENCH))
    found = bench_files(files, threads=threads, rounds=rounds, resolution=resolution)
    if save:
        found.store()
    result = found.to_dict()
    if as_json:
        print_json(result)
    else:
        print(describe_bench(result))
