"""Checkpoints of mmengine and saved networks load; what would run code does not."""

import pickle
from pathlib import Path

import pytest
import torch

pytest.importorskip("mmdet", reason="needs pip install '.[detect]'")

import mobilenas.detect
from mobilenas.base.errors import BadInput

assert mobilenas.detect.MobileNASBackbone
from mmengine.logging import MessageHub  # noqa: E402
from mmengine.runner import CheckpointLoader  # noqa: E402


def test_a_checkpoint_of_a_training_loads_with_its_history(tmp_path: Path) -> None:
    hub = MessageHub.get_instance("test_checkpoint")
    for loss in (2.0, 1.0, 0.25):
        hub.update_scalar("train/loss", loss)
    hub.update_info("epoch", 3)
    weight = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    path = tmp_path / "epoch_1.pth"
    torch.save({"state_dict": {"w": weight}, "message_hub": hub.state_dict()}, path)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    loaded = CheckpointLoader.load_checkpoint(str(path), map_location="cpu")
    assert torch.equal(loaded["state_dict"]["w"], weight)
    history = loaded["message_hub"]["log_scalars"]["train/loss"]
    assert history.data[0].tolist() == [2.0, 1.0, 0.25]
    assert history.statistics("min") == 0.25
    assert loaded["message_hub"]["runtime_info"] == {"epoch": 3}
    with pytest.raises(pickle.UnpicklingError):  # the classes were allowed for that call only
        torch.load(path, weights_only=True)


class RunsCode:
    def __reduce__(self) -> tuple[object, ...]:
        return (print, ("code of the file ran",))


class ReadsAnAttribute:
    def __reduce__(self) -> tuple[object, ...]:
        return (getattr, (MessageHub, "get_instance"))


@pytest.mark.parametrize("content", [RunsCode(), ReadsAnAttribute()])
def test_a_checkpoint_that_would_run_code_is_refused(
    tmp_path: Path, content: object, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.pth"
    torch.save({"state_dict": content}, path)
    with pytest.raises(BadInput, match=r"bad\.pth is not a checkpoint"):
        CheckpointLoader.load_checkpoint(str(path))
    assert "ran" not in capsys.readouterr().out


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    torn = tmp_path / "torn.pth"
    torch.save({"state_dict": {"w": torch.zeros(1000)}}, torn)
    torn.write_bytes(torn.read_bytes()[:1500])
    for path in (tmp_path / "none.pth", torn, tmp_path):
        with pytest.raises(BadInput, match=path.name):
            CheckpointLoader.load_checkpoint(str(path))


def test_a_saved_network_loads_by_folder_and_by_file(saved: Path) -> None:
    by_folder = CheckpointLoader.load_checkpoint(str(saved))
    by_file = CheckpointLoader.load_checkpoint(str(saved / "model.safetensors"))
    assert by_folder["meta"]["arch"] == "e2k35_e2k3_e2k3_e2k5_e2k3"
    assert by_folder["meta"]["space"]["name"] == "tiny"
    assert by_folder["state_dict"].keys() == by_file["state_dict"].keys()
    assert all(torch.equal(t, by_file["state_dict"][k]) for k, t in by_folder["state_dict"].items())
