"""Presets of searches by gradient; those of a method's own name have its published recipe."""

import pytest

from mobilenas.strategies.methods import METHODS, load_search_config

# Epochs, images a batch, learning rates of weights and architecture, share of weights alone.
PUBLISHED = {
    "darts": (50, 64, 0.025, 3e-4, 0.0),
    "pc-darts": (50, 256, 0.1, 6e-4, 0.3),
    "gdas": (250, 64, 0.025, 3e-4, 0.0),
    "proxyless": (160, 256, 0.05, 1e-3, 0.25),
    "pdarts": (25, 96, 0.025, 6e-4, 0.4),
    "mergenas": (50, 64, 0.025, 3e-4, 0.2),
    "dropnas": (76, 96, 0.0375, 3e-4, 0.0),
    "rome": (50, 64, 0.05, 3e-4, 0.0),
    "idarts": (30, 64, 0.01, 3e-4, 0.0),
    "lambda-darts": (100, 64, 0.025, 1e-4, 0.0),
    "ista": (50, 256, 0.1, 6e-4, 0.0),
    "drnas": (100, 64, 0.025, 3e-4, 0.0),
    "gaea": (25, 64, 0.025, 3e-4, 0.0),
    "shapley": (50, 256, 0.1, 3e-4, 0.5),
    "zarts": (50, 64, 0.025, 3e-4, 0.2),
    "darts-pt": (81, 64, 0.0025, 3e-4, 0.0),
}
OURS = {"parsec", "svge"}  # whose papers do not give them all


@pytest.mark.parametrize("name", METHODS)
def test_its_presets_are_recipes_and_its_own_is_the_published_one(name: str) -> None:
    for preset in (None, "cpu", "cpu-tiny", "cpu-small"):
        config = load_search_config(name, preset, [])
        assert type(config).model_validate(config.model_dump(mode="json")) == config
    config = load_search_config(name, None, [])
    found = (config.epochs, config.batch_size, config.lr, config.arch_lr, config.weights_first)
    assert name in OURS or found == PUBLISHED[name]
    assert getattr(config, "samples", 0) == {"parsec": 16, "rome": 7, "zarts": 4}.get(name, 0)
