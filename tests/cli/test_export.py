"""`export` in its other forms: int8, bytes, other runtimes; what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import TINY, TINY_ARCH, TINY_SPACE, Call, Job, Trained, check_refused, contents
from PIL import Image

from mobilenas.base.files import write_json
from mobilenas.nn import Network
from mobilenas.nn.saved import NetworkInfo, save_network
from mobilenas.space import load_space

SPACE = load_space("macro:width=0.125,resolution=16")


def test_int8_of_a_trained_network(trained: Trained, tmp_path: Path, call: Call) -> None:
    out = tmp_path / "model.onnx"
    flags = ("--onnx", "--int8", "--preprocess", "--batch=1", "--opset=21", "--calibrate=50")
    done = call("export", *flags, f"--run={trained.folder}", f"--out={out}", "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert (report["dtype"], report["opset"], report["metadata"]["batch"]) == ("int8", 21, "1")
    proof, about = report["verification"], report["metadata"]
    assert proof["images"] == 355
    assert proof["torch_accuracy"] == pytest.approx(trained.result["test_accuracy"], abs=1e-9)
    assert float(about["top1_accuracy"]) == proof["exported_accuracy"]
    assert about["top1_accuracy_on"] == "355 test images"
    assert len(report["trials"]) > 1
    found = json.loads(call("eval", out, "--data=digits", "--json").out)
    assert (found["top1"], found["n"]) == (proof["exported_accuracy"], 355)


def test_int8_of_a_search_in_words(job: Job, tmp_path: Path, call: Call) -> None:
    done = call("export", "--onnx", "--int8", f"--run={job.search}", f"--out={tmp_path / 'a.onnx'}")
    assert done.code == 0, done.err
    assert "onnxruntime, int8, NCHW, RGB, float32" in done.out
    assert "on 355 images; accuracy of torch " in done.out
    assert "quantised: static" in done.out
    assert done.out.count("tried: ") > 1


def test_the_file_says_how_images_were_cut_for_its_accuracy(tmp_path: Path, call: Call) -> None:
    supernet, search = tmp_path / "supernet", tmp_path / "evolve"
    flags = (f"--space={TINY_SPACE}", *TINY, "--set=passes=1", "--set=eval_crop=0.5")
    assert call("supernet-train", *flags, f"--out={supernet}").code == 0
    few = ("--population=2", "--generations=1", "--objectives=accuracy")
    assert call("evolve", f"--supernet={supernet}", *few, f"--out={search}").code == 0
    out = tmp_path / "a.onnx"
    done = call("export", "--onnx", f"--run={search}", f"--out={out}", "--json")
    assert done.code == 0, done.err
    about = json.loads(done.out)["metadata"]
    assert int(about["input_short_side"]) == 32  # of images of 16 pixels
    found = json.loads(call("eval", out, "--data=digits", "--json").out)
    assert found["top1"] == pytest.approx(float(about["top1_accuracy"]))


def test_executorch_of_a_trained_network(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    pytest.importorskip("executorch", reason="executorch is not installed (extra `mobile`)")
    out = tmp_path / "model.pte"
    done = call("export", "--runtime=executorch", f"--run={trained.folder}", f"--out={out}")
    assert done.code == 0, done.err
    assert f"{out}  " in done.out
    assert f"{TINY_ARCH}: " in done.out
    assert "batch 1: " in done.out
    found = json.loads(call("eval", out, "--data=digits", "--json").out)
    assert found["top1"] == pytest.approx(trained.result["test_accuracy"], abs=1e-9)
    assert found["runtime"] == "executorch"


def test_what_export_refuses(trained: Trained, job: Job, tmp_path: Path, call: Call) -> None:
    before = contents(trained.folder)
    run = f"--run={trained.folder}"
    for flags, words in (
        ((), ("--onnx", "--runtime")),
        (("--onnx", "--runtime=ncnn"), ("choose one", "--runtime ncnn")),
        (("--runtime=tflite",), ("tflite", "onnxruntime", "litert")),
        (("--onnx", "--opset=13"), ("--opset 13", "14 to 26")),
        (("--onnx", "--batch=few"), ("--batch few", "dynamic")),
        (("--onnx", "--batch=4097"), ("--batch 4097", "1 to 4096")),
        (("--onnx", "--batch=" + "9" * 5000), ("--batch 999", "1 to 4096")),
        (("--onnx", f"--out={tmp_path}/net.pte"), ("net.pte", "must end in .onnx")),
        (("--onnx", f"--out={tmp_path}/net.pte", "--data=none"), ("net.pte", "must end in .onnx")),
        (("--onnx", "--calibrate=9"), ("--calibrate is for --int8",)),
        (("--onnx", "--calibration-data=x"), ("--calibration-data is for --int8",)),
        (("--onnx", "--int8", "--calibrate=161"), ("--calibrate 161", "160 training images")),
        (("--onnx", "--int8", "--calibration-data=x"), ("for a saved network",)),
    ):
        check_refused(call("export", *flags, run), *words)
    assert contents(trained.folder) == before
    assert not list(tmp_path.iterdir())
    found = f"--run={job.search}"
    both = ("--onnx", f"--arch={TINY_ARCH}", "--pick=knee")
    check_refused(call("export", *both, found), "choose one: --arch, or --pick")
    check_refused(call("export", "--onnx", "--arch=", found), "arch")


def test_figures_of_another_file_do_not_stay(tmp_path: Path, call: Call) -> None:
    info = NetworkInfo(tuple("0123456789"), (0.5,) * 3, (0.25,) * 3)
    out = tmp_path / "model.onnx"
    figures = tmp_path / "model.onnx.bench.json"
    for seed, kept in ((0, False), (0, True), (1, False)):
        network = Network(SPACE, SPACE.sample(np.random.default_rng(seed)))
        network.load_state_dict({n: x.fill_(0.1) for n, x in network.state_dict().items()})
        save_network(network, tmp_path / f"net {seed}", info)
        write_json(figures, {})
        flags = ("--onnx", f"--network={tmp_path / f'net {seed}'}", "--data=digits")
        done = call("export", *flags, f"--out={out}")
        assert done.code == 0, done.err
        assert figures.exists() == kept


def test_figures_of_another_package_do_not_stay(tmp_path: Path, call: Call) -> None:
    pytest.importorskip("coremltools", reason="coremltools is not installed")
    info = NetworkInfo(tuple("0123456789"), (0.5,) * 3, (0.25,) * 3)
    network = Network(SPACE, SPACE.sample(np.random.default_rng(0)))
    network.load_state_dict({n: x.fill_(0.1) for n, x in network.state_dict().items()})
    save_network(network, tmp_path / "net", info)
    figures = tmp_path / "model.mlpackage.bench.json"
    write_json(figures, {})
    flags = ("--runtime=coreml", f"--network={tmp_path / 'net'}", "--data=digits")
    done = call("export", *flags, f"--out={tmp_path / 'model.mlpackage'}")
    assert done.code == 0, done.err
    assert not figures.exists()


def test_calibration_images_of_a_saved_network(tmp_path: Path, call: Call) -> None:
    info = NetworkInfo(("cat", "dog"), (0.5,) * 3, (0.25,) * 3)
    network = Network(SPACE, SPACE.sample(np.random.default_rng(0)))
    network.reset_classifier(2)
    save_network(network, tmp_path / "net", info)
    rng = np.random.default_rng(0)
    for name in ("cat", "dog", "loose"):
        folder = tmp_path / (name if name == "loose" else f"pets/{name}")
        folder.mkdir(parents=True)
        for number in range(40):
            noise = rng.integers(0, 256, (18, 21, 3), dtype=np.uint8)
            Image.fromarray(noise).save(folder / f"{number}.png")
    (tmp_path / "loose" / "about.txt").touch()
    int8 = ("export", "--onnx", "--int8", f"--network={tmp_path / 'net'}")
    pets = f"--data={tmp_path / 'pets'}"
    check_refused(call(*int8, pets), "give --calibration-data")
    loose = f"--calibration-data={tmp_path / 'loose'}"
    check_refused(call(*int8, pets, loose, "--calibrate=41"), "there are 40 images of")
    for images in (loose, f"--calibration-data={tmp_path / 'pets'}", "--calibration-data=digits"):
        done = call(*int8, pets, images, "--json")
        assert done.code == 0, done.err
        report = json.loads(done.out)
        assert report["verification"]["images"] == 40
        assert report["metadata"]["top1_accuracy_on"] == "40 images"
    (tmp_path / "loose" / "0.png").write_bytes(b"torn")
    check_refused(call(*int8, pets, loose), "0.png: cannot read the image")
