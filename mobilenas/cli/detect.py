"""The commands `detect`: mmdet's detectors on networks of a space. Heavy imports live inside."""

from os.path import realpath
from pathlib import Path
from typing import Annotated

import typer

from mobilenas.base.errors import BadInput
from mobilenas.cli.options import Json, is_given, print_json
from mobilenas.cli.track import tracked

detect_app = typer.Typer(
    no_args_is_help=True,
    help="Object detectors on networks of a space: train, evaluate, predict, export.",
)
Run = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder of detect train.")]
MovedData = Annotated[
    Path | None, typer.Option("--data", help="Folder of the data, where they have moved.")
]
_LARGEST_SEED = 2**31 - 1  # numpy takes 32 bits, and mmengine counts on from it


@detect_app.command("train")
@tracked
def detect_train(
    context: typer.Context,
    config: Annotated[
        str | None,
        typer.Argument(
            metavar="CONFIG",
            help="Recipe of configs/detection (retinanet_quick, ssdlite, ...), or a config file of "
            "mmdet: a .py file is executed, YAML and JSON are data.",
        ),
    ] = None,
    space: Annotated[
        str | None, typer.Option(help="Shipped space or YAML file, with overrides.")
    ] = None,
    arch: Annotated[
        str | None, typer.Option(help="Arch of --space, by its text form: trained from nothing.")
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(help="Saved network instead: the backbone and the weights it starts from."),
    ] = None,
    data: Annotated[
        str,
        typer.Option(
            help="Folder in COCO format (annotations/instances_train2017.json with train2017/ ..., "
            "train.json and val.json with their images, Roboflow's or CVAT's layout), or digits "
            "(built in)."
        ),
    ] = "digits",
    options: Annotated[
        list[str] | None,
        typer.Option(
            *("--set", "--cfg-options"),
            metavar="KEY=VALUE",
            help="Replace a key: train_cfg.max_epochs=8.",
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=_LARGEST_SEED, help="Seed of everything random.")
    ] = 0,
    out: Annotated[Path, typer.Option(help="Run folder.")] = Path("runs/detect"),
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue the run in --out; other flags may be left out."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Train a detector on data in COCO format, and evaluate it on the validation part.

    The data are checked first. Kill it at any time; --resume continues from the last checkpoint.

    Example: mobilenas detect train retinanet_quick --weights runs/train/network --data DIR
    """
    from mobilenas.base.files import user_path
    from mobilenas.detect.detector import (
        DIGITS,
        DetectSettings,
        create_detect_run,
        open_detect_run,
    )
    from mobilenas.detect.runner import describe_run, train_detector
    from mobilenas.report.detect import describe_data, describe_detector, describe_precisions
    from mobilenas.runs import RunFolder
    from mobilenas.runs.lock import held

    place = data if data == DIGITS else realpath(user_path(data))
    given = {
        "config": config,
        "space": space,
        "arch": arch,
        "weights": weights and realpath(weights),
        "data": place if is_given(context, "data") else None,
        "options": tuple(options) if options else None,
        "seed": seed if is_given(context, "seed") else None,
    }
    with held(out, "detect train"):
        if resume:
            there = RunFolder.to_resume(out, "detect")
            # By their checksums data and weights are the same, wherever they are.
            moved = {"data": place} if given["data"] not in (None, DIGITS) else {}
            if weights and there.settings.get("weights"):
                moved["weights"] = str(weights.absolute())
            places = {name: Path(place) for name, place in moved.items()}
            run = open_detect_run(out, places.get("data"), places.get("weights"))
            run.folder.check_unchanged({k: x for k, x in given.items() if k not in moved})
        elif config is None:
            raise BadInput("which detector? give a CONFIG, such as retinanet_quick")
        else:
            chosen = {name: value for name, value in given.items() if value is not None}
            run = create_detect_run(out, DetectSettings.model_validate(chosen))
        typer.echo(describe_data(run.found), err=True)
        typer.echo(describe_detector(describe_run(run)), err=True)
        result = train_detector(run)
    if as_json:
        print_json({"run": str(out), **result})
        return
    print(describe_precisions(result))
    print(f"detector in {out}; next: mobilenas detect predict {out} IMAGE")


@detect_app.command("eval")
def detect_eval(run: Run, data: MovedData = None, as_json: Json = False) -> None:
    """COCO's average precisions of a trained detector on the validation part, also class by class.

    Example: mobilenas detect eval runs/detect
    """
    from mobilenas.detect.detector import open_detect_run
    from mobilenas.detect.runner import evaluate_detector
    from mobilenas.report.detect import describe_data, describe_precisions

    opened = open_detect_run(run, data)
    typer.echo(describe_data(opened.found), err=True)
    precisions = evaluate_detector(opened)
    if as_json:
        print_json({"run": str(run), "data": opened.found, **precisions})
    else:
        print(describe_precisions(precisions))


@detect_app.command("predict")
def detect_predict(
    run: Run,
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE...", help="Image files, or folders of them.")
    ],
    min_score: Annotated[
        float, typer.Option(min=0, max=1, help="Boxes of lower scores are left out.")
    ] = 0.3,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the drawn PNG files; RUN/predictions by default."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Find objects in images, and draw their boxes.

    Example: mobilenas detect predict runs/detect photo.jpg
    """
    from mobilenas.detect.detector import open_detector
    from mobilenas.detect.predict import list_images, predict
    from mobilenas.report.detect import describe_images, describe_predictions

    out = out or run / "predictions"
    files, found = list_images(images, out)
    rows = predict(open_detector(run), files, out, min_score)
    typer.echo(describe_images(found), err=True)
    if as_json:
        print_json({"run": str(run), "data": found, "images": rows})
    else:
        print(describe_predictions(rows))


@detect_app.command("export")
def detect_export(
    run: Run,
    onnx: Annotated[bool, typer.Option("--onnx", help="Write ONNX, the format there is.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="File to write; RUN/detector.onnx by default.")
    ] = None,
    data: MovedData = None,
    as_json: Json = False,
) -> None:
    """Export a trained detector of one stage: its raw class scores and boxes of every stride.

    Decoding and NMS are the consumer's; the file says how. Verified, or nothing is written.

    Example: mobilenas detect export runs/detect --onnx
    """
    if not onnx:
        raise BadInput("choose a format: --onnx")
    from mobilenas.detect.detector import open_detect_run
    from mobilenas.detect.predict import export_run
    from mobilenas.report.detect import describe_data, describe_detector_export

    opened = open_detect_run(run, data)
    report = export_run(opened, out or run / "detector.onnx").to_dict()
    typer.echo(describe_data(opened.found), err=True)
    if as_json:
        print_json({"data": opened.found, **report})
    else:
        print(describe_detector_export(report))
