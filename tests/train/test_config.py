"""Presets, overrides, and what is said about a config that is wrong."""

from pathlib import Path

import pytest

from mobilenas.base.errors import BadInput
from mobilenas.base.resources import resource
from mobilenas.train.config import SupernetConfig, load_supernet_config

PRESETS = sorted(path.stem for path in (resource("configs") / "supernet").glob("*.yaml"))

# Chu et al. 2020, released CIFAR-10 code; one pass an epoch of its 200.
RELEASED = {
    "batch_size": 96,
    "lr": 0.025,
    "momentum": 0.9,
    "weight_decay": 3e-4,
    "clip": 5,
    "cutout": 16,
    "passes": 200,
}


def refusal(reference: str, overrides: list[str]) -> str:
    with pytest.raises(BadInput) as refused:
        load_supernet_config(reference, overrides)
    message = str(refused.value)
    assert "\n" not in message
    return message


def test_the_presets_are_there() -> None:
    assert {"default", "quick"} <= set(PRESETS)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_loads_and_is_what_its_file_says(preset: str) -> None:
    config = load_supernet_config(preset, [])
    again = SupernetConfig.model_validate(config.model_dump(mode="json"))
    assert again == config
    path = resource("configs") / "supernet" / f"{preset}.yaml"
    assert load_supernet_config(str(path), []) == config


def test_the_default_preset_is_the_released_recipe() -> None:
    config = load_supernet_config("default", [])
    assert {key: getattr(config, key) for key in RELEASED} == RELEASED
    assert config.warmup_epochs == 0
    assert config.limit is None
    assert (config.crop_padding, config.flip, config.label_smoothing) == (4, True, 0)


def test_overrides_replace_keys_and_the_last_one_counts() -> None:
    overrides = ["lr=0.1", "flip=false", "limit=200", "strategy=uniform", "lr=0.05"]
    config = load_supernet_config("default", overrides)
    changes = {"lr": 0.05, "flip": False, "limit": 200, "strategy": "uniform"}
    assert config == load_supernet_config("default", []).model_copy(update=changes)
    assert load_supernet_config("default", ["limit=200", "limit=null"]).limit is None
    assert load_supernet_config("default", ["weight_decay=1e-4"]).weight_decay == 1e-4


def test_the_names_of_before_are_read_too(tmp_path: Path) -> None:
    """As configs and run folders of earlier versions have them."""
    expected = SupernetConfig(strategy="uniform", warmup_epochs=2)
    path = tmp_path / "mine.yaml"
    path.write_text("sampler: uniform\nwarmup: 2\n")
    assert load_supernet_config(str(path), []) == expected
    overrides = ["sampler=uniform", "warmup=2"]
    found = load_supernet_config("default", overrides)
    assert (found.strategy, found.warmup_epochs) == ("uniform", 2)
    assert {"sampler", "warmup"}.isdisjoint(found.model_dump())
    assert "strategy: " in refusal("default", ["sampler=random"])


def test_a_supernet_takes_the_keys_of_every_training(tmp_path: Path) -> None:
    recipe = ["optimizer=adamw", "schedule=step", "ema_decay=0.99", "mixup=0.2", "stream=true"]
    config = load_supernet_config("default", [*recipe, "teacher=timm:resnet18", "crop=resize"])
    assert (config.optimizer, config.schedule, config.ema_decay) == ("adamw", "step", 0.99)
    assert config.augment().crop == "resize"


def test_a_file_takes_the_defaults_for_what_it_leaves_out(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("passes: 3\n")
    assert load_supernet_config(str(path), []) == SupernetConfig(passes=3)
    path.write_text("# nothing\n")
    assert load_supernet_config(str(path), ["batch_size=7"]) == SupernetConfig(batch_size=7)


def test_a_config_does_not_change() -> None:
    config = load_supernet_config("default", [])
    with pytest.raises(ValueError, match="frozen"):
        config.lr = 1.0


def test_an_unknown_key_is_named_with_the_nearest_known_one(tmp_path: Path) -> None:
    assert "lrr: " in refusal("default", ["lrr=0.1"])
    assert "did you mean lr?" in refusal("default", ["lrr=0.1"])
    far = refusal("default", ["zzz=1"])
    assert all(key in far for key in SupernetConfig.model_fields)
    path = tmp_path / "mine.yaml"
    path.write_text("learning_rate: 0.1\n")
    assert "learning_rate" in refusal(str(path), [])
    assert str(path) in refusal(str(path), [])


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("lr=fast", "lr"),
        ("lr=0", "lr"),
        ("lr=", "lr"),
        ("lr=[1, 2]", "lr"),
        ("lr=.nan", "lr"),
        ("lr=.inf", "lr"),
        ("passes=-1", "passes"),
        ("passes=.inf", "passes"),
        ("momentum=1", "momentum"),
        ("batch_size=2.5", "batch_size"),
        ("batch_size=1", "batch_size"),
        ("calibrate_images=1", "calibrate_images"),
        ("flip=maybe", "flip"),
        ("limit=0", "limit"),
        ("strategy=random", "strategy"),
        ("bn=none", "bn"),
        ("precision=fp8", "precision"),
        ("cutout=-1", "cutout"),
    ],
)
def test_a_wrong_value_names_its_key(override: str, key: str) -> None:
    assert f"config default: {key}: " in refusal("default", [override])


@pytest.mark.parametrize("override", ["lr", "", "lr:0.1", "lr=[1", "lr={", "lr='"])
def test_an_override_that_cannot_be_read_is_named(override: str) -> None:
    assert f"override {override!r}" in refusal("default", [override])


def test_a_reference_to_nothing_names_the_presets() -> None:
    message = refusal("fast", [])
    assert "'fast'" in message
    assert all(preset in message for preset in PRESETS)


@pytest.mark.parametrize("text", ["- lr\n- 0.1\n", "lr\n", "7\n", "lr: [1\n", "\tlr: 1\n"])
def test_a_file_that_is_no_mapping_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    assert str(path) in refusal(str(path), [])


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"lr: \xff\xfe")
    assert str(path) in refusal(str(path), [])
