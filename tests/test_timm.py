"""Every arch is a timm model: the checks that timm makes of its own models, made of ours."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file
from timm.data import resolve_data_config
from timm.models import load_checkpoint, load_state_dict, resolve_model_input_args, save_for_hf
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn

import mobilenas.timm  # noqa: F401  # registers the models
from mobilenas.base.errors import BadInput
from mobilenas.nn import Network
from mobilenas.nn.blocks import init_weights
from mobilenas.space import Arch, Space, list_spaces, load_space

Change = Callable[..., nn.Module]
Sample = Callable[..., list[Arch]]
S2 = load_space("s2:width=0.25,resolution=64,num_classes=10")
ARCH = "_".join(["e3k35", "e6k3579", "e3k9"] * 6)
# Identities, several paths, channel groups, squeeze-excite: all that a block may have.
VARIED = (
    "macro:width=0.25,resolution=16",
    "s1:width=0.25,resolution=16",
    "s3:width=0.25,resolution=64,num_classes=10,candidates.kernels=[3,5]",
    "fairnas:width=0.25,resolution=64,num_classes=10,squeeze_excite=0.5,activation=hard_swish",
)


def images(space: Space, n: int = 2, channels: int | None = None) -> Tensor:
    size = (n, channels or space.spec.in_channels, space.resolution, space.resolution)
    return torch.randn(size, generator=torch.Generator().manual_seed(0))


def create(space: Space = S2, arch: str = ARCH, **kwargs: Any) -> Any:
    return timm.create_model("mobilenas", space=space.to_dict(), arch=arch, **kwargs)


@pytest.fixture
def arguments(small_space: Space, sample: Sample) -> dict[str, Any]:
    """Space and arch of a model in each shipped space."""
    return {"space": small_space, "arch": str(sample(small_space, 1)[0])}


@pytest.fixture(params=VARIED)
def varied(request: pytest.FixtureRequest, sample: Sample) -> dict[str, Any]:
    """Space and arch of a few models that differ in kind, for what takes long."""
    space = load_space(request.param)
    return {"space": space, "arch": str(sample(space, 1)[0])}


# --- timm's checks, in every shipped space ------------------------------------------------------


@torch.no_grad()
def test_default_cfg_is_true_of_the_model(arguments: dict[str, Any]) -> None:
    space = arguments["space"]
    model = create(**arguments).eval()
    assert isinstance(model, Network)
    cfg = model.default_cfg
    assert cfg == model.pretrained_cfg
    assert cfg["architecture"] == "mobilenas"
    assert cfg["input_size"] == (model.in_chans, space.resolution, space.resolution)
    assert cfg["num_classes"] == model.num_classes == space.num_classes
    assert len(cfg["mean"]) == len(cfg["std"]) == model.in_chans
    assert not {"url", "file", "hf_hub_id"} & cfg.keys()
    x, weights = images(space), model.state_dict()
    assert f"{cfg['classifier']}.weight" in weights
    assert f"{cfg['first_conv']}.weight" in weights
    assert model.get_submodule(cfg["classifier"]) is model.get_classifier()
    assert model.forward_features(x).shape[-2:] == cfg["pool_size"]
    assert model(x).shape == (2, space.num_classes)
    model.reset_classifier(0)
    assert model(x).shape == (2, model.num_features)
    model.reset_classifier(0, "")
    assert model(x).shape == (2, model.num_features, *cfg["pool_size"])
    assert torch.equal(model(x), model.forward_features(x))
    model.reset_classifier(7, "avg")
    assert model(x).shape == (2, 7)
    bare = create(**arguments, num_classes=0, global_pool="").eval()
    assert bare(x).shape == (2, model.num_features, *cfg["pool_size"])


def test_every_parameter_gets_a_gradient(arguments: dict[str, Any], unlike_fresh: Change) -> None:
    model = create(**arguments, drop_rate=0.0)
    # Seeded: the two units of a narrow squeeze-excite may both be dead for all images.
    init_weights(model, torch.Generator().manual_seed(0))
    unlike_fresh(model).train()
    x = images(arguments["space"], 4).contiguous(memory_format=torch.channels_last)
    model.to(memory_format=torch.channels_last)(x).square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    # Before a batch norm the weights of a dead channel may get zeros, but never all of a layer.
    assert [name for name, p in model.named_parameters() if not p.grad.any()] == []


@torch.no_grad()
@pytest.mark.parametrize("feature_cls", ["list", "dict", "hook", "fx", "getter"])
def test_features_of_every_kind(
    feature_cls: str, varied: dict[str, Any], unlike_fresh: Change
) -> None:
    space = varied["space"]
    whole = create(**varied)
    unlike_fresh(whole).eval()
    expected = whole.forward_intermediates(images(space), intermediates_only=True)
    overlay = {"state_dict": dict(whole.state_dict())}
    model = create(
        **varied,
        pretrained=True,
        pretrained_cfg_overlay=overlay,
        features_only=True,
        feature_cls=feature_cls,
    ).eval()
    found = model(images(space))
    found = list(found.values()) if isinstance(found, dict) else found
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6 * float(other.abs().max()))
    assert model.feature_info.channels() == [len(map_[0]) for map_ in found]
    reductions = model.feature_info.reduction()
    assert [-(-space.resolution // r) for r in reductions] == [m.shape[-1] for m in found]
    assert "num_classes" not in model.pretrained_cfg
    assert not any(isinstance(part, nn.Linear) for part in model.modules())


def test_features_of_large_spaces_have_the_usual_reductions() -> None:
    for name in list_spaces():
        space = load_space(name)
        if space.resolution == 224:
            model = create(space, str(space.decode(space.num_candidates * 0)), features_only=True)
            assert model.feature_info.reduction() == [2, 4, 8, 16, 32], name


@torch.no_grad()
def test_features_of_some_levels_need_no_layer_behind_them() -> None:
    for indices, kept in (((1, 3), [4, 16]), ((-2,), [16]), (2, [16, 32])):
        model = create(features_only=True, out_indices=indices).eval()
        assert model.feature_info.reduction() == kept
        assert [m.shape[-1] for m in model(images(S2))] == [64 // r for r in kept]
    count = sum(p.numel() for p in create(features_only=True, out_indices=(1,)).parameters())
    assert count < 0.1 * sum(p.numel() for p in create(features_only=True).parameters())


@torch.no_grad()
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:NOTE. The nodes:UserWarning")
def test_torchscript_and_fx_compute_the_same(varied: dict[str, Any], unlike_fresh: Change) -> None:
    space = varied["space"]
    model = create(**varied, drop_path_rate=0.2)
    unlike_fresh(model).eval()
    x = images(space, 3)
    expected, pooled = model(x), model.forward_head(model.forward_features(x), pre_logits=True)
    torch.testing.assert_close(torch.jit.script(model)(x), expected)
    graph = timm.models.create_feature_extractor(model, {"dropout": "pooled", "classifier": "y"})
    found = graph(x)
    torch.testing.assert_close(found["y"], expected)
    torch.testing.assert_close(found["pooled"], pooled)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("form", ["script", "fx"])
def test_torchscript_and_fx_train_alike(form: str, unlike_fresh: Change) -> None:
    model = create(drop_rate=0.0)
    unlike_fresh(model).train()
    model(images(S2, 4)).square().mean().backward()
    expected = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    if form == "script":
        torch.jit.script(model)(images(S2, 4)).square().mean().backward()
    else:
        graph = timm.models.create_feature_extractor(model, {"classifier": "logits"}).train()
        graph(images(S2, 4))["logits"].square().mean().backward()
    for name, parameter in model.named_parameters():
        bound = 1e-4 * float(expected[name].abs().max()) + 1e-8
        torch.testing.assert_close(parameter.grad, expected[name], rtol=0, atol=bound)


def test_the_fast_depthwise_gradient_survives_fx(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    monkeypatch.setattr("mobilenas.nn.kernels.depthwise._MIN_ELEMENTS", 0)
    monkeypatch.setattr(
        "mobilenas.nn.kernels.depthwise.depthwise_weight_grad",
        lambda x, grad, k, stride: taken.append(k) or x.new_zeros(x.shape[1], 1, k, k),
    )
    model = create(features_only=True, feature_cls="fx").train()
    model(images(S2))[-1].sum().backward()
    # e3k35, e6k3579 and e3k9 six times each (3 takes the ordinary one), and the e6k5 at the end
    assert sorted(taken) == [5] * 13 + [7] * 6 + [9] * 12


@torch.no_grad()
def test_weights_for_features_come_from_a_file(tmp_path: Path) -> None:
    path = str(tmp_path / "model.safetensors")
    whole = create().eval()
    save_file(whole.state_dict(), path)
    overlay = {"file": path}
    model = create(pretrained=True, pretrained_cfg_overlay=overlay, features_only=True).eval()
    expected = whole.forward_intermediates(images(S2), intermediates_only=True)
    assert all(torch.equal(a, b) for a, b in zip(model(images(S2)), expected, strict=True))


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_features_script() -> None:
    model = create(features_only=True).eval()
    with torch.no_grad():
        for one, other in zip(torch.jit.script(model)(images(S2)), model(images(S2)), strict=True):
            torch.testing.assert_close(one, other)


@torch.no_grad()
def test_state_dict_through_timm(
    arguments: dict[str, Any], unlike_fresh: Change, tmp_path: Path
) -> None:
    model = create(**arguments)
    unlike_fresh(model).eval()
    x = images(arguments["space"])
    torch.save({"state_dict": model.state_dict()}, tmp_path / "model.pth")
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    for name in ("model.pth", "model.safetensors"):
        path = str(tmp_path / name)
        assert torch.equal(create(**arguments, checkpoint_path=path).eval()(x), model(x))
        other = create(**arguments).eval()
        load_checkpoint(other, path)
        assert torch.equal(other(x), model(x))


# --- arguments ----------------------------------------------------------------------------------


def test_a_space_is_a_name_a_file_or_plain_data(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(yaml.safe_dump(S2.to_dict()))
    for space in (S2.name, str(path), path, S2.to_dict(), json.loads(json.dumps(S2.to_dict()))):
        for arch in (ARCH, S2.parse(ARCH)):
            model = timm.create_model("mobilenas", space=space, arch=arch)
            assert (model.space.layers, str(model.arch)) == (S2.layers, ARCH)


def test_arguments_reach_the_network() -> None:
    model = create(num_classes=3, in_chans=5, drop_rate=0.3, drop_path_rate=0.2)
    assert model(images(S2, channels=5)).shape == (2, 3)
    assert (model.num_classes, model.in_chans) == (3, 5)
    assert (model.drop_rate, model.drop_path_rate, model.dropout.p) == (0.3, 0.2, 0.3)
    torch.manual_seed(0)
    model.train()
    assert not torch.equal(model(images(S2, channels=5)), model(images(S2, channels=5)))


def test_a_space_of_grey_images_makes_a_cfg_of_one_channel() -> None:
    model = create(load_space(f"{S2.name},in_channels=1"))
    assert model.default_cfg["input_size"] == (1, 64, 64)
    assert model.default_cfg["mean"] == (0.5,)
    assert model(images(S2, channels=1)).shape == (2, 10)


@pytest.mark.parametrize("kwargs", [{}, {"space": "s1"}, {"arch": ARCH}])
def test_space_and_arch_are_asked_for(kwargs: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match=r"needs space= .* and arch= ") as error:
        timm.create_model("mobilenas", **kwargs)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"space": "s9"}, "'s9' is neither a YAML file nor one of "),
        ({"arch": "e3k3"}, "arch has 1 blocks, space s2"),
        ({"arch": "_".join(["e3k4"] * 18)}, "arch block 1: 'e3k4' is not a candidate"),
        ({"global_pool": "max"}, "global_pool 'max'"),
        ({"output_stride": 16}, "output_stride: mobilenas has reductions 2, 4, 8, 16, 32 and is "),
        ({"features_only": True, "out_indices": (0, 9)}, "there are 5 feature maps, 0 to 4"),
        ({"features_only": True, "out_indices": 6}, "there are 5 feature maps, 0 to 4"),
        ({"global_pool": ""}, "needs num_classes 0"),
    ],
)
def test_wrong_arguments_are_refused(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        timm.create_model("mobilenas", **{"space": S2.name, "arch": ARCH} | kwargs)


@pytest.mark.parametrize("name", ["fairnas_a", "mobilenas_mobilenetv2_100", "mobilenas"])
def test_weights_that_nobody_hosts_are_refused_in_one_line(name: str) -> None:
    kwargs = {"space": S2.name, "arch": ARCH} if name == "mobilenas" else {}
    with pytest.raises(BadInput, match=f"no weights of {name} are hosted: .*checkpoint_path"):
        timm.create_model(name, pretrained=True, **kwargs)
    with pytest.raises(BadInput, match=f"{name} has no weights with the tag 'in1k'"):
        timm.create_model(f"{name}.in1k", **kwargs)


# --- saved folders and timm's scripts -----------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path, unlike_fresh: Change) -> tuple[Path, Network]:
    """A folder of 7 classes as timm reads it, and the network that it holds."""
    model = create(num_classes=7)
    unlike_fresh(model).eval()
    config = {
        "architecture": "mobilenas",
        "num_classes": 7,
        "num_features": model.num_features,
        "model_args": {"space": S2.to_dict(), "arch": ARCH},
        "pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    return tmp_path, model


@torch.no_grad()
def test_a_saved_folder_is_a_model(saved: tuple[Path, Network]) -> None:
    folder, model = saved
    again = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert torch.equal(again(images(S2)), model(images(S2)))
    assert again.num_classes == 7
    cfg = resolve_data_config(model=again)
    assert (cfg["input_size"], cfg["interpolation"], cfg["crop_pct"]) == (
        (3, 64, 64),
        "bilinear",
        1,
    )
    assert (tuple(cfg["mean"]), tuple(cfg["std"])) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


@torch.no_grad()
def test_a_saved_folder_is_adapted_as_asked(saved: tuple[Path, Network]) -> None:
    folder, model = saved
    name, x = f"local-dir:{folder}", images(S2)
    features = timm.create_model(name, pretrained=True, features_only=True).eval()
    expected = model.forward_intermediates(x, intermediates_only=True)
    assert all(torch.equal(a, b) for a, b in zip(features(x), expected, strict=True))
    finer = timm.create_model(name, pretrained=True, num_classes=3).eval()
    assert finer(x).shape == (2, 3)
    assert torch.equal(finer.forward_features(x), model.forward_features(x))
    grey = timm.create_model(name, pretrained=True, in_chans=1).eval().double()
    one, exact = x[:, :1].double(), copy.deepcopy(model).double()
    torch.testing.assert_close(grey(one), exact(one.expand(-1, 3, -1, -1)), rtol=1.3e-6, atol=1e-5)


@torch.no_grad()
def test_timm_saves_a_folder_that_is_read_back(tmp_path: Path, unlike_fresh: Change) -> None:
    model = create(num_classes=5)
    unlike_fresh(model).eval()
    save_for_hf(model, tmp_path, safe_serialization=True)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert torch.equal(again(images(S2)), model(images(S2)))
    assert load_state_dict(str(tmp_path / "model.safetensors")).keys() == model.state_dict().keys()


def test_scripts_that_resolve_arguments_first_get_those_of_the_space() -> None:
    resolved = resolve_model_input_args("mobilenas", space=S2.name, arch=ARCH)
    model = timm.create_model(**resolved)
    assert model.default_cfg == create().default_cfg
    resolved = resolve_model_input_args("fairnas_a", in_chans=1)
    assert timm.create_model(**resolved, num_classes=2).in_chans == 1


def test_layer_decay_has_a_group_a_block() -> None:
    groups = param_groups_layer_decay(create(), weight_decay=0.1, layer_decay=0.5)
    scales = sorted({group["lr_scale"] for group in groups})
    # stem, 20 blocks (the head convolution goes with the last) and classifier
    assert scales == [0.5**n for n in range(21, -1, -1)]
