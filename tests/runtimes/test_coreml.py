"""Core ML packages: what is in them, shown by their own graph and weights off a Mac."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exporting import INFO, MEAN, STD, TINY, build, change_stem, export, make_images
from torch import nn

from mobilenas.base.errors import BadInput, VerificationFailed
from mobilenas.export import Form, evaluate, make_form, make_runtime, verify
from mobilenas.export.deployable import deployable, normalise
from mobilenas.report.text import describe_export
from mobilenas.runtimes.base import run_all

ct = pytest.importorskip("coremltools", reason="coremltools is not installed")

DIGITS = replace(INFO, classes=tuple("0123456789"), accuracy=None)
SPACES = (
    TINY,
    "digits:width=0.5,resolution=16",
    f"{TINY},activation=swish,squeeze_excite=0.5",
    f"{TINY},activation=hard_swish",
    "s3:width=0.25,resolution=32,num_classes=10,candidates.kernels=[3,5]",
    "s1:width=0.25,resolution=16,path_activation=after_sum",
)


def half(module: nn.Module) -> nn.Module:
    """A module with its weights as float16 has them."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(parameter.half())
    return module


@pytest.mark.skipif(sys.platform == "darwin", reason="Core ML itself runs the file")
@pytest.mark.parametrize("reference", SPACES)
def test_a_package_has_the_graph_and_every_weight(reference: str) -> None:
    runtime, network = make_runtime("coreml"), build(reference).eval()
    module, example = deployable(network, INFO, Form(batch=2))
    files = runtime.convert(module, example, Form(batch=2), None).files
    inputs = normalise(make_images(network.space.resolution), MEAN, STD)
    found = run_all(runtime.load(files), inputs, 2, fixed=True)
    with torch.no_grad():
        expected = half(module)(torch.from_numpy(inputs)).numpy()
    # The slope of a hard swish, 1/6, is rounded as well.
    bound = 1e-3 if "hard_swish" in reference else 1e-4
    assert np.abs(found - expected).max() < bound * np.abs(expected).max()


def test_a_package_is_exported_replaced_and_evaluated(tmp_path: Path) -> None:
    runtime, path = make_runtime("coreml"), tmp_path / "net.mlpackage"
    asked: Any = {"opset": None, "batch": None, "preprocess": False, "int8": False}
    form = make_form(runtime, **asked)
    for _ in range(2):
        report = export(build(TINY), path, info=DIGITS, runtime=runtime, form=form)
    assert (report.dtype, report.verification.tolerance) == ("fp16", 1e-2)
    assert sorted(each.name for each in tmp_path.iterdir()) == [path.name, f"{path.name}.json"]
    assert ct.utils.load_spec(str(path)).description.input[0].name == "image"
    if sys.platform != "darwin":
        assert report.metadata["verified_in"] == "torch, operator by operator"
        assert "coreml does not run here" in describe_export(report.to_dict())
    result = evaluate(path, "digits")
    assert (result.runtime, result.n) == ("coreml", 355)
    with pytest.raises(BadInput, match="--int8: coreml has none here"):
        make_form(runtime, **asked | {"int8": True})
    with pytest.raises(BadInput, match="it is a folder"):
        export(build(TINY), tmp_path, info=DIGITS, runtime=runtime, form=form)


def test_another_network_is_caught() -> None:
    runtime, form = make_runtime("coreml"), Form(batch=1)
    files = runtime.convert(*deployable(build(TINY), INFO, form), form, None).files
    other = change_stem(lambda weight: weight.flip(3))
    images = make_images(16)
    with pytest.raises(VerificationFailed, match="logits differ"):
        verify(files, runtime.load, form, "fp16", other, INFO, images)


@pytest.mark.skipif(sys.platform == "darwin", reason="Core ML itself runs the file")
def test_an_operator_that_is_not_known_is_named() -> None:
    runtime, form = make_runtime("coreml"), Form(batch=1)
    module = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Softsign()).eval()
    files = runtime.convert(module, torch.zeros(1, 3, 4, 4), form, None).files
    with pytest.raises(VerificationFailed, match="operator abs of Core ML is not known"):
        runtime.load(files)


@pytest.mark.parametrize("core", [False, True])
def test_a_network_as_it_is_converts_too(core: bool) -> None:
    """As users call coremltools: batch norms and activations in place, any decomposition."""
    network = build("digits:width=0.5,resolution=16").eval()
    program = torch.export.export(network, (torch.zeros(1, 3, 16, 16),))
    program = program.run_decompositions() if core else program.run_decompositions({})
    ct.convert(program, minimum_deployment_target=ct.target.iOS15, skip_model_load=True)
