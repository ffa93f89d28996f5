"""Networks of cells whose edges have ops, as they are saved, folded and exported."""

from pathlib import Path

import pytest
import torch
from exporting import CLASSES, INFO, calibration, change_norms, make_images
from genotypes import DARTS_V2, PDARTS
from torch import nn

from mobilenas.base.errors import BadInput
from mobilenas.cost.model import flops_and_params
from mobilenas.export import export_network
from mobilenas.nn import EdgeCellNetwork, fold_batch_norm, plain_network
from mobilenas.nn.saved import load_block_network, load_network, save_network
from mobilenas.space import load_network_space

NB201 = "nb201:channels=4,cells=1,resolution=8"
DARTS = "darts:channels=4,cells=3,resolution=8"
IMAGENET = "darts:skeleton=darts_imagenet,channels=4,cells=3,resolution=32"
# Nothing takes node 1 of the second, node 2 of the third takes zeros alone.
CELLS = [
    "|nor_conv_3x3~0|+|skip_connect~0|nor_conv_1x1~1|+|avg_pool_3x3~0|none~1|nor_conv_3x3~2|",
    "|nor_conv_3x3~0|+|nor_conv_3x3~0|none~1|+|skip_connect~0|none~1|nor_conv_1x1~2|",
    "|none~0|+|none~0|none~1|+|nor_conv_3x3~0|none~1|nor_conv_3x3~2|",
]
NETWORKS = [*((NB201, cell) for cell in CELLS), (DARTS, DARTS_V2), (IMAGENET, PDARTS)]
CONSTANT = "|none~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|none~0|nor_conv_3x3~1|none~2|"


def build(reference: str, text: str) -> EdgeCellNetwork:
    """A random network whose batch norms all do something."""
    space, generator = load_network_space(reference), torch.Generator().manual_seed(0)
    network = plain_network(space, space.parse(text), generator=generator)
    assert isinstance(network, EdgeCellNetwork)
    change_norms(network, generator)
    return network.eval()


@pytest.mark.parametrize(("reference", "text"), NETWORKS)
@torch.no_grad()
def test_batch_norms_fold_and_what_is_not_used_is_gone(reference: str, text: str) -> None:
    network = build(reference, text).double()
    folded = fold_batch_norm(network)
    size = network.space.resolution
    x = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(1)).double()
    logits = network(x)
    assert (folded(x) - logits).abs().max() < 1e-12 * logits.abs().max()
    assert logits.std(dim=0).max() > 1e-3
    assert not any(isinstance(part, nn.BatchNorm2d) for part in folded.modules())

    seen = set()
    for part in folded.modules():
        if isinstance(part, nn.Conv2d):
            part.register_forward_hook(lambda part, *_: seen.add(part))
    folded.train()(x)
    before, after = (
        {part for part in each.modules() if isinstance(part, nn.Conv2d)}
        for each in (network, folded)
    )
    assert seen == after
    norms = reference == NB201  # the last batch norm becomes a convolution
    unused = 3 if text == CELLS[1] else 0  # one a cell
    assert len(after) == len(before) + norms - unused


@pytest.mark.parametrize(("reference", "text"), [NETWORKS[1], NETWORKS[3]])
def test_a_saved_network_is_the_same(reference: str, text: str, tmp_path: Path) -> None:
    network = build(reference, text)
    save_network(network, tmp_path, INFO)
    found, info = load_network(tmp_path)
    assert (found.arch, found.space.to_dict()) == (network.arch, network.space.to_dict())
    assert (info, found.num_classes) == (INFO, len(CLASSES))
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(found(x), network(x))
    with pytest.raises(BadInput, match="is a network of cells; it must be one of a space of block"):
        load_block_network(tmp_path)


@pytest.mark.parametrize(("reference", "text"), [NETWORKS[1], NETWORKS[3]])
def test_the_exported_file_is_proved(reference: str, text: str, tmp_path: Path) -> None:
    network = build(reference, text)
    report = export_network(network, INFO, tmp_path / "cells.onnx", make_images(8), None)
    assert report.metadata["arch"] == str(network.arch)
    flops = flops_and_params(network.space, [network.arch])["flops"][0]
    assert report.metadata["flops_multiply_adds"] == str(flops)
    assert report.verification.parity[0].max_rel < 1e-5


def test_what_is_not_exported(tmp_path: Path) -> None:
    path, images = tmp_path / "cells.onnx", make_images(8)
    assert build(NB201, CONSTANT).is_constant
    assert not any(build(*each).is_constant for each in NETWORKS)
    with pytest.raises(BadInput, match="no path leads from the image to the logits"):
        export_network(build(NB201, CONSTANT), INFO, path, images, None)
    with pytest.raises(BadInput, match="int8: a network of cells is exported in float"):
        network = build(NB201, CELLS[0])
        export_network(network, INFO, path, images, None, calibration=calibration(8))
    assert not path.exists()


def test_a_dropout_but_no_drop_path() -> None:
    space = load_network_space(NB201)
    arch = space.parse(CELLS[0])
    network = plain_network(space, arch, drop_rate=0.5)
    assert isinstance(network.dropout, nn.Dropout) and network.dropout.p == 0.5
    with pytest.raises(BadInput, match=r"drop_path_rate 0\.1: networks of cells have none"):
        plain_network(space, arch, drop_path_rate=0.1)
