"""CLIP's ResNets: any width, depth, number of heads and grid is read as written, and the input is CLIP's."""

from __future__ import annotations

import pytest
import torch
from helpers.families_clip_resnet import before_projection, modified_resnet, openai, timm_file
from helpers.weights import golden_input

from dinobench.errors import UserError
from dinobench.models.families import released
from dinobench.models.loading import inspect_checkpoint, load_backbone


def as_openai(tower: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {f"visual.{name}": tensor for name, tensor in tower.state_dict().items()}


@pytest.mark.parametrize(
    ("image", "width", "layers", "heads", "options"),
    [
        (32, 8, (1, 1, 1, 1), 4, {}),
        (64, 16, (2, 1, 1, 2), 8, {}),
        (96, 24, (1, 2, 1, 1), 12, {}),
        (64, 16, (1, 1, 2, 1), 2, {"heads": 2}),
        (64, 24, (1, 1, 1, 1), 3, {"heads": 3}),
    ],
)
def test_what_is_written_is_what_is_read(tmp_path, image, width, layers, heads, options):
    tower = modified_resnet(image, width, heads, layers)
    x = golden_input(2, image, image)
    wanted, patches = before_projection(tower, x)
    for write in (openai, timm_file):
        backbone = load_backbone(write(as_openai(tower), tmp_path), **options)
        torch.testing.assert_close(backbone.features(x), wanted, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(backbone.layers(x)[0][1], patches, atol=1e-4, rtol=1e-4)
        assert backbone.info.embed_dim == 32 * width
        assert backbone.info.input.mean == released.CLIP_MEAN and backbone.info.input.std == released.CLIP_STD
        assert backbone.info.method == "clip"


def test_both_layouts_are_one_model(tmp_path):
    tensors = as_openai(modified_resnet())
    digests = {load_backbone(write(tensors, tmp_path)).info.weights_digest for write in (openai, timm_file)}
    assert len(digests) == 1


def test_the_number_of_heads_is_part_of_the_digest(tmp_path):
    path = openai(as_openai(modified_resnet()), tmp_path)
    assert load_backbone(path).info.weights_digest != load_backbone(path, heads=4).info.weights_digest


def test_the_projection_is_set_aside_and_said_to_be(tmp_path):
    seen = inspect_checkpoint(openai(as_openai(modified_resnet()), tmp_path))
    assert not seen.missing and not seen.unexpected
    assert {"visual.attnpool.c_proj.weight", "visual.attnpool.c_proj.bias"} <= set(seen.ignored)


def test_positions_of_no_square_grid_are_asked_for(tmp_path):
    tensors = as_openai(modified_resnet())
    name = "visual.attnpool.positional_embedding"
    tensors[name] = torch.cat([tensors[name], tensors[name][1:]])  # 1 + 8 rows
    path = openai(tensors, tmp_path)
    with pytest.raises(UserError, match="--grid 2x4 or 4x2"):
        load_backbone(path)
    assert load_backbone(path, grid="2x4").features(golden_input(1, 64, 128)).shape == (1, 512)


@pytest.mark.parametrize("lost", ["layer2.0.conv2.weight", "attnpool.q_proj.weight", "bn2.running_var"])
def test_a_tower_without_one_of_its_tensors_is_refused(tmp_path, lost):
    tensors = as_openai(modified_resnet())
    del tensors[f"visual.{lost}"]
    with pytest.raises(UserError, match="missing") as refused:
        load_backbone(openai(tensors, tmp_path))
    assert "\n" not in str(refused.value)
