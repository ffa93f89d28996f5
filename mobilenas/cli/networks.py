"""The commands for single networks on disk: eval, convert. Heavy imports live inside commands."""

from pathlib import Path
from typing import Annotated

import typer

from mobilenas.base.errors import BadInput
from mobilenas.base.plain import read_text
from mobilenas.cli.options import DATA_HELP, Json, print_json


def evaluate(
    network: Annotated[
        Path,
        typer.Argument(
            metavar="NETWORK",
            help="Saved network (its folder or .safetensors file), or exported .onnx, .pte ...",
        ),
    ],
    data: Annotated[
        str,
        typer.Option(help=DATA_HELP),
    ],
    as_json: Json = False,
) -> None:
    """Top-1 and top-5 on the test part of the data, or on all of it where there is no such part.

    A saved network runs in torch, an exported file in its runtime, all on the CPU. Images are
    resized and cropped as the network says.

    Example: mobilenas eval runs/train/network --data photos/
    """
    from mobilenas.export import evaluate
    from mobilenas.report.text import describe_evaluation

    result = evaluate(network, data).to_dict()
    if as_json:
        print_json(result)
    else:
        print(describe_evaluation(result))


def convert(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.json", help="Net config.")],
    weights: Annotated[
        Path, typer.Argument(metavar="WEIGHTS.npz", help="State dict, as arrays by their names.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the saved network.")],
    classes: Annotated[
        Path | None,
        typer.Option(help="Text file of class names, one a line; their numbers by default."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Save published ProxylessNAS weights as a network of the space proxyless.

    Reads the ImageNet backbones of the ProxylessNAS repository (mit-han-lab/proxylessnas,
    proxyless_gaze: width 0.25 at 112 px, 0.3 at 176 px): the net config as it is published, and
    the state dict as a .npz file.

    Example: mobilenas convert w0.3-r176.json w0.3-r176.npz --out runs/w0.3
    """
    from mobilenas.base.units import format_size
    from mobilenas.cost import CostModel
    from mobilenas.nn.published import convert
    from mobilenas.nn.saved import WEIGHTS, save_network
    from mobilenas.runs.lock import held

    with held(out, "convert"):
        if (out / WEIGHTS).exists():
            raise BadInput(f"{out} already holds a network: choose another --out")
        network, info = convert(config, weights, _read_names(classes))
        save_network(network, out, info)
    space, arch, cost_model = network.space.name, str(network.arch), CostModel(network.space)
    costs = {name: getattr(cost_model, name)(network.arch) for name in ("flops", "params")}
    if as_json:
        print_json({"network": str(out), "space": space, "arch": arch, **costs})
        return
    print(f"{space}\n{arch}")
    print(f"{format_size(costs['flops'])} FLOPs, {format_size(costs['params'])} params")
    print(f"network in {out}; next: mobilenas eval {out} --data DIR")


def _read_names(path: Path | None) -> tuple[str, ...] | None:
    return None if path is None else tuple(read_text(path).splitlines())
