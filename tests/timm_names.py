"""A plugin for timm's own tests/test_models.py: it runs over our names in place of timm's.

`python -m pytest -p timm_names tests/test_models.py` in timm's source package, this folder being in
PYTHONPATH. Of tests that name some models of timm, ours take their place; tests of what one family
of models has alone are left out.
"""

from collections.abc import Sequence
from typing import Any

import pytest
import timm

import mobilenas.timm  # noqa: F401  # registers the models

NAMES = ["fairnas_a", "fairnas_b", "fairnas_c", "mobilenas_mobilenetv2_100"]
# What timm's tests of any convolutional model are called.
TESTS = {
    "test_catavgmax_unsupported",
    "test_feature_getter_stage_ends_torchscript",
    "test_features_only_feature_cls_class",
    "test_features_only_grad_checkpointing_backward",
    "test_forward_after_prune_intermediate_layers",
    "test_forward_intermediates_stop_early_final_norm",
    "test_head_hidden_size",
    "test_model_backward",
    "test_model_backward_fx",
    "test_model_default_cfgs",
    "test_model_features_output_stride",
    "test_model_forward",
    "test_model_forward_features",
    "test_model_forward_fx",
    "test_model_forward_fx_torchscript",
    "test_model_forward_intermediates",
    "test_model_forward_intermediates_features",
    "test_model_forward_torchscript",
    "test_model_forward_torchscript_with_features_fx",
    "test_model_init_weights_after_to_empty",
    "test_prune_extra_blocks_stem_width",
    "test_prune_intermediate_layers_contract",
    "test_prune_intermediate_layers_last_feature",
    "test_prune_intermediate_layers_params_used",
    "test_prune_to_stem_feature",
    "test_reset_classifier_keeps_pool",
}
_parametrize = pytest.mark.parametrize


def _ours(*_: object, **__: object) -> list[str]:
    return NAMES


def _over_our_names(names: str, values: Sequence[Any], **options: Any) -> pytest.MarkDecorator:
    if names == "model_name":
        values = NAMES
    elif names.startswith("model_name") and isinstance(values[0][1], bool):
        values = [(name, flag) for name in NAMES for flag in (False, True)]
    elif names.startswith("model_name"):
        values = [(name, {}, *values[0][2:]) for name in NAMES]
    return _parametrize(names, values, **options)


timm.list_models = _ours
setattr(pytest.mark, "parametrize", _over_our_names)  # noqa: B010  # a property to mypy


def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    items[:] = [item for item in items if item.originalname in TESTS]
