"""Networks as .pte files: what they compute, what they say, and what their proof catches."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from exporting import (
    INFO,
    TINY,
    Exported,
    build,
    calibration,
    change_stem,
    export,
    forget_a_batch_norm,
    make,
    make_images,
)

from mobilenas.base import files
from mobilenas.base.errors import BadInput, VerificationFailed
from mobilenas.export import Form, evaluate, make_runtime
from mobilenas.export.deployable import deployable, normalise
from mobilenas.runtimes.base import Converted

pytest.importorskip("executorch", reason="executorch is not installed (extra `mobile`)")

EXECUTORCH = make_runtime("executorch")
DIGITS = replace(INFO, classes=tuple("0123456789"), accuracy=None)


def made(path: Path, form: Form, quantised: bool = False) -> Exported:
    images = calibration(16, 12) if quantised else None  # each takes its time in PT2E
    how = {"runtime": EXECUTORCH, "form": form, "calibration": images, "info": DIGITS}
    return make(TINY, path, **how)


@pytest.fixture(scope="module")
def fp32(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return made(tmp_path_factory.mktemp("fp32") / "model.pte", Form(batch=2))


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """In int8, of bytes, one image at a time."""
    path = tmp_path_factory.mktemp("int8") / "model.pte"
    return made(path, Form(batch=1, preprocess=True), quantised=True)


def run(path: Path, image: torch.Tensor) -> np.ndarray:
    """The output of a file, by the library itself."""
    from executorch.runtime import Runtime

    (output,) = Runtime.get().load_program(path).load_method("forward").execute([image])
    return output.numpy().copy()


def expected(count: int) -> np.ndarray:
    inputs = normalise(make_images(16)[:count], INFO.mean, INFO.std)
    with torch.inference_mode():
        return build(TINY).eval()(torch.from_numpy(inputs)).numpy()


def test_fp32(fp32: Exported) -> None:
    found = run(fp32.path, torch.from_numpy(fp32.inputs[:2]))
    assert np.abs(found - expected(2)).max() <= 1e-5 * np.abs(expected(2)).max()
    report = json.loads(json.dumps(fp32.report.to_dict()))
    assert (report["runtime"], report["opset"], report["dtype"]) == ("executorch", None, "fp32")
    assert report["size_bytes"] == fp32.path.stat().st_size
    assert [row["batch_size"] for row in report["verification"]["parity"]] == [2]
    about = json.loads(fp32.path.with_name("model.pte.json").read_text())
    assert about == report["metadata"]
    assert (about["batch"], about["input_layout"]) == ("2", "NCHW, RGB, float32")
    assert tuple(json.loads(about["classes"])) == DIGITS.classes


def test_seven_images_in_bytes(tmp_path: Path) -> None:
    exported = made(tmp_path / "model.pte", Form(batch=7, preprocess=True))
    found = run(exported.path, torch.from_numpy(make_images(16)[:7]))
    assert np.abs(found - expected(7)).max() <= 1e-5 * np.abs(expected(7)).max()


def test_int8(int8: Exported) -> None:
    found = run(int8.path, torch.from_numpy(make_images(16)[:1]))
    assert 0 < np.abs(found - expected(1)).max() <= 0.1 * np.abs(expected(1)).max()
    assert int8.report.dtype == "int8"
    assert int8.report.verification.parity[0].divergence < 0.05
    assert int8.report.metadata["quantisation"] == int8.report.scheme
    assert int8.report.metadata["input_layout"] == "NHWC, RGB, uint8"


def test_same_bytes_again(fp32: Exported) -> None:
    again = EXECUTORCH.convert(*deployable(build(TINY), DIGITS, Form(batch=2)), Form(batch=2), None)
    assert again.files == {".pte": fp32.path.read_bytes()}


def test_files_are_evaluated(tiny: Exported, fp32: Exported, int8: Exported) -> None:
    reference, found = evaluate(tiny.path, "digits"), evaluate(fp32.path, "digits")
    assert (found.runtime, found.top1, found.n) == ("executorch", reference.top1, 355)
    assert abs(evaluate(int8.path, "digits").top1 - reference.top1) < 0.05
    fp32_about = fp32.path.with_name("model.pte.json").read_bytes()
    lonely = int8.path.with_name("lonely.pte")
    lonely.write_bytes(fp32.path.read_bytes())
    with pytest.raises(BadInput, match=r"no such file: .*lonely\.pte\.json"):
        evaluate(lonely, "digits")
    lonely.with_name("lonely.pte.json").write_bytes(fp32_about)
    lonely.write_bytes(b"torn")
    with pytest.raises(BadInput, match="ExecuTorch does not load it: "):
        evaluate(lonely, "digits")


def test_a_program_that_crashes_does_not_end_the_command(
    fp32: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(BadInput, match=r"model\.pte: the process that loads it ended with code 1"):
        evaluate(fp32.path, "digits")


# --- what is caught and refused -----------------------------------------------------------------


def test_a_wrong_weight_and_swapped_colours_are_caught(fp32: Exported, int8: Exported) -> None:
    def perturb(weight: torch.Tensor) -> torch.Tensor:
        weight[0, 0, 0, 0] += 0.1
        return weight

    content = {".pte": fp32.path.read_bytes()}
    fp32.verify(content, Form(batch=2), runtime="executorch")
    for change in (perturb, lambda weight: weight.flip(1)):
        other = replace(fp32, network=change_stem(change))
        with pytest.raises(VerificationFailed, match="logits differ by"):
            other.verify(content, Form(batch=2), runtime="executorch")
    content, form = {".pte": int8.path.read_bytes()}, Form(batch=1, preprocess=True)
    int8.verify(content, form, "int8", "executorch")
    other = replace(int8, network=change_stem(lambda weight: weight.flip(1)))
    with pytest.raises(VerificationFailed, match="class probabilities diverge by"):
        other.verify(content, form, "int8", "executorch")


def test_a_batch_norm_in_training_mode_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mobilenas.nn.fold.fold_batch_norm", forget_a_batch_norm)
    with pytest.raises(VerificationFailed) as failure:
        made(tmp_path / "model.pte", Form(batch=1))
    assert "\n" not in str(failure.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is a device of Linux")
@pytest.mark.parametrize("suffix", [".pte", ".pte.json"])
def test_a_full_disk_leaves_the_old_files(
    suffix: str, fp32: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_synced, content = files._write_synced, {".pte": fp32.path.read_bytes()}
    monkeypatch.setattr(EXECUTORCH, "convert", lambda *_: Converted(content), raising=False)

    def write(path: Path, fill: object) -> None:
        full = re.fullmatch(rf"\.model{re.escape(suffix)}\.[0-9a-f]+\.tmp", path.name)
        write_synced(Path("/dev/full") if full else path, fill)

    monkeypatch.setattr(files, "_write_synced", write)
    for name in ("model.pte", "model.pte.json"):
        (tmp_path / name).write_text("old")
    with pytest.raises(BadInput, match=r"cannot write .*model\.pte: No space left on device"):
        made(tmp_path / "model.pte", Form(batch=2))
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {
        "model.pte": "old",
        "model.pte.json": "old",
    }


def test_the_name_has_to_tell_the_runtime(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"its name must end in \.pte"):
        export(build(TINY), tmp_path / "model.onnx", runtime=EXECUTORCH, form=Form(batch=1))
