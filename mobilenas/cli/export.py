"""The command that exports networks. Heavy imports live inside commands."""

from pathlib import Path
from typing import Annotated

import typer

from mobilenas.base.errors import BadInput
from mobilenas.cli.options import Json, is_given, print_json

_OF_INT8 = ("calibrate", "calibration_data")


def export(
    context: typer.Context,
    onnx: Annotated[
        bool, typer.Option("--onnx", help="Write ONNX: short for --runtime onnxruntime.")
    ] = False,
    runtime: Annotated[
        str | None,
        typer.Option(
            help="onnxruntime (.onnx), executorch (.pte), litert (.tflite), openvino (.xml, .bin), "
            "ncnn (.ncnn.param, .ncnn.bin) or coreml (.mlpackage); the file is proved by running "
            "it there, but for coreml off a Mac: then its graph is run by torch."
        ),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(
            help="Run folder of train, evolve or search; by default the newest of runs/train, "
            "runs/evolve, runs/search."
        ),
    ] = None,
    network: Annotated[
        Path | None,
        typer.Option(help="Saved network in place of a run: its folder or .safetensors file."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Images that the export of a saved network is verified on; of a run, where its "
            "images are now, if they moved."
        ),
    ] = None,
    supernet: Annotated[
        Path | None,
        typer.Option(help="Where the supernet of a run of evolve is now, if it moved."),
    ] = None,
    arch: Annotated[
        str | None,
        typer.Option(help="Arch of the space, by its text form; else --pick chooses one."),
    ] = None,
    pick: Annotated[
        str,
        typer.Option(help="best (accuracy, or score), knee (trade-off) or cheapest of the front."),
    ] = "best",
    int8: Annotated[
        bool,
        typer.Option("--int8", help="Quantise weights and activations (onnxruntime, executorch)."),
    ] = False,
    calibrate: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=10**6,
            help="Training images that the ranges of --int8 are taken from; by default 128.",
        ),
    ] = None,
    calibration_data: Annotated[
        str | None,
        typer.Option(
            help="Images for --int8 in place of the training part of --data: a folder with images "
            "in it, or what --data takes."
        ),
    ] = None,
    preprocess: Annotated[
        bool,
        typer.Option(
            "--preprocess",
            help="Take the bytes of RGB images, uint8 (N, R, R, 3), and normalise in the graph.",
        ),
    ] = False,
    batch: Annotated[
        str | None,
        typer.Option(
            help="`dynamic`, or a fixed number of images at a time; by default dynamic, or 1 where "
            "the runtime has fixed ones only."
        ),
    ] = None,
    opset: Annotated[int | None, typer.Option(help="ONNX opset, 14 to 26; 18 by default.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="File to write; <arch>.onnx (-int8, -bytes, .pte ...) in the folder exported from "
            "by default."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Export a network as ONNX or for another runtime, verified before it is written.

    It is a trained one, the one that a search found, with the supernet's weights, or a saved one.

    Example: mobilenas export --onnx --run runs/train

    Example: mobilenas export --onnx --run runs/evolve --pick knee

    Example: mobilenas export --onnx --network FOLDER --data DIR

    Example: mobilenas export --onnx --int8 --preprocess --batch 1

    Example: mobilenas export --runtime executorch --int8
    """
    if not onnx and runtime is None:
        raise BadInput("choose a format: --onnx, or --runtime")
    if onnx and runtime not in (None, "onnxruntime"):
        raise BadInput(f"choose one: --onnx, or --runtime {runtime}")
    if network is not None and run is not None:
        raise BadInput("choose one: --network, or --run")
    if arch is not None and is_given(context, "pick"):
        raise BadInput("choose one: --arch, or --pick")
    for name in _OF_INT8:
        if is_given(context, name) and not int8:
            raise BadInput(f"--{name.replace('_', '-')} is for --int8")
    if network is None and calibration_data is not None:
        raise BadInput("--calibration-data is for a saved network; a run has images of its own")
    from mobilenas.export import make_form, make_runtime
    from mobilenas.export.write import check_target
    from mobilenas.runs import RunFolder
    from mobilenas.runs.folder import Kind, newest_finished
    from mobilenas.stages.export import (
        Int8,
        Target,
        run_export,
        run_export_saved,
        run_export_searched,
        run_export_trained,
    )

    made = make_runtime(runtime or "onnxruntime")
    form = make_form(made, opset=opset, batch=batch, preprocess=preprocess, int8=int8)
    target = Target(made, form, Int8(calibrate, calibration_data) if int8 else None)
    if out is not None:  # before anything is read, which may take minutes
        check_target(out, made.suffix)
    if network is not None:
        source, kind = network, "network"
    elif run is not None:
        source, kind = run, RunFolder.open(run, "train", "evolve", "search").kind
    else:
        kinds: tuple[Kind, ...] = ("train", "evolve", "search")
        newest = newest_finished(kinds, *(Path("runs") / kind for kind in kinds))
        source, kind = newest.path, newest.kind
    if kind != "evolve":
        for name in ("arch", "pick", "supernet"):
            if is_given(context, name):
                raise BadInput(f"--{name} is for a run of evolve; {source} is one network")
    if kind == "evolve":
        report = run_export(
            source, arch=arch, pick=pick, target=target, out=out, supernet=supernet, data=data
        ).to_dict()
    elif kind == "search":
        report = run_export_searched(source, target, out, data).to_dict()
    elif kind == "train":
        report = run_export_trained(source, target, out, data).to_dict()
    elif data is None:
        raise BadInput("give --data: images that the exported network is verified on")
    else:
        report = run_export_saved(source, data, target, out).to_dict()
    if as_json:
        print_json(report)
    else:
        from mobilenas.report.text import describe_export

        print(describe_export(report))
