"""Maps of patch features over an image, as protocols that look for places ask for them."""

from __future__ import annotations

import torch

from dinobench.errors import UnsupportedCapability
from dinobench.models.adapters import on_grid
from dinobench.types import Backbone


def maps_of(backbone: Backbone, x: torch.Tensor, layer: int = -1, norm: bool = True) -> torch.Tensor:
    """(B, 3, H, W) -> (B, D, h, w): the output of a block (0 first, -1 last), after the final norm or not.

    A model without blocks of one grid has its last map, normed or not as it comes, in the place of its last block.
    Raises UnsupportedCapability where it is asked for another, UserError for a block that there is not.
    """
    if (layer == -1 and norm) or "layers" not in backbone.capabilities:
        if layer != -1:
            raise UnsupportedCapability(
                f"{backbone.info.name}: a {backbone.info.arch} has its last map only, not {layer}"
            )
        return backbone.feature_map(x).float()
    ((_, patches),) = backbone.blocks(x, (layer,), norm=norm)
    return on_grid(patches, x, backbone.size_multiple).float()


def comes_normed(backbone: Backbone, norm: bool) -> bool:
    """Whether features before the final norm are asked of a model that has only its last map."""
    return not norm and "layers" not in backbone.capabilities
