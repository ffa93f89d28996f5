"""eval, convert and the export of saved networks through the command line."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import ALONE, Call, check_refused, contents

from mobilenas.export import evaluate
from mobilenas.nn import Network
from mobilenas.nn.saved import NetworkInfo, load_network, save_network
from mobilenas.space import load_space

SPACE = load_space("macro:width=0.125,resolution=16")
INFO = NetworkInfo(tuple("0123456789"), (0.5,) * 3, (0.5,) * 3, 0.8)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    network = Network(SPACE, SPACE.sample(np.random.default_rng(0)))
    save_network(network, tmp_path / "net", INFO)
    return tmp_path / "net"


def test_a_saved_network_is_evaluated_and_exported(saved: Path, call: Call) -> None:
    result = json.loads(call("eval", saved, "--data=digits", "--json").out)
    assert result == json.loads(json.dumps(evaluate(saved, "digits").to_dict()))
    text = call("eval", saved / "model.safetensors", "--data=digits").out
    assert f"top-1  {100 * result['top1']:.2f} %" in text
    assert "355 test images; short side to 20 px, centre 16 px; torch" in text

    export = call("export", "--onnx", f"--network={saved}", "--data=digits")
    assert export.code == 0, export.err
    arch = str(load_network(saved)[0].arch)
    assert f"{arch}: " in export.out and "accuracy not stated" in export.out
    again = json.loads(call("eval", saved / f"{arch}.onnx", "--data=digits", "--json").out)
    assert (again["top1"], again["runtime"]) == (result["top1"], "onnxruntime")


def test_a_folder_that_timm_saved_is_evaluated_exported_and_trained(
    tmp_path: Path, call: Call
) -> None:
    import timm

    import mobilenas.timm  # noqa: F401  # registers the models

    arch, folder = str(SPACE.sample(np.random.default_rng(0))), tmp_path / "net"
    model = timm.create_model("mobilenas", space=SPACE.name, arch=arch)
    timm.models.save_for_hf(model, folder, safe_serialization=True)
    result = json.loads(call("eval", folder, "--data=digits", "--json").out)
    export = call("export", "--onnx", f"--network={folder}", "--data=digits")
    assert export.code == 0, export.err
    again = json.loads(call("eval", folder / f"{arch}.onnx", "--data=digits", "--json").out)
    assert again["top1"] == result["top1"]
    train = call("train", f"--weights={folder}", *ALONE, f"--out={tmp_path / 'run'}")
    assert train.code == 0, train.err
    assert str(load_network(tmp_path / "run" / "network")[0].arch) == arch


def test_what_export_and_eval_refuse(saved: Path, tmp_path: Path, call: Call) -> None:
    before = contents(saved)
    export = ("export", "--onnx", f"--network={saved}")
    check_refused(call(*export), "give --data")
    check_refused(call(*export, "--run=runs/x"), "--network, or --run")
    check_refused(call(*export, "--data=digits", "--pick=knee"), "--pick is for a run of evolve")
    check_refused(call(*export, "--data=digits", "--arch=id"), "--arch is for a run of evolve")
    check_refused(call(*export, "--data=/no/such"), "/no/such")
    check_refused(call(*export, "--data=digits", f"--out={tmp_path}"), "it is a folder")
    run = ("export", "--onnx", f"--run={tmp_path}")
    check_refused(call(*run, "--int8", "--calibration-data=digits"), "--calibration-data is for")
    check_refused(call("eval", tmp_path, "--data=digits"), "no saved network", str(tmp_path))
    check_refused(call("eval", saved, "--data=/no/such"), "/no/such")
    assert contents(saved) == before
    (saved / "model.safetensors").write_bytes(b"torn")
    for command in (("eval", saved), export):
        check_refused(call(*command, "--data=digits"), str(saved / "model.safetensors"))


def test_what_convert_refuses(saved: Path, tmp_path: Path, call: Call) -> None:
    config, weights, names = (tmp_path / name for name in ("net.json", "net.npz", "names.txt"))
    check_refused(call("convert", config, weights, f"--out={saved}"), "already holds a network")
    check_refused(call("convert", config, weights, f"--out={tmp_path / 'new'}"), str(config))
    config.write_text("{}")
    out = ("convert", config, weights, f"--out={tmp_path / 'new'}")
    check_refused(call(*out), str(config), "name: Field required")
    check_refused(call(*out, f"--classes={names}"), str(names))
    names.write_bytes(b"\xff")
    check_refused(call(*out, f"--classes={names}"), str(names))
    assert not (tmp_path / "new").exists()


def test_published_weights_are_saved(data_root: Path, tmp_path: Path, call: Call) -> None:
    folder, out = data_root / "pretrained", tmp_path / "net"
    files = [folder / f"proxyless-w0.25-r112_imagenet.{end}" for end in ("json", "npz")]
    names = [f"class {i}" for i in range(1000)]
    (tmp_path / "names.txt").write_text("\n".join(names) + "\n")
    done = call("convert", *files, f"--out={out}", f"--classes={tmp_path / 'names.txt'}", "--json")
    assert done.code == 0, done.err
    row = json.loads(done.out)
    network, info = load_network(out)
    assert (row["space"], row["arch"]) == (network.space.name, str(network.arch))
    assert (row["params"], info.classes) == (569_600, tuple(names))
