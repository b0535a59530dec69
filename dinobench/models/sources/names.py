"""Names that timm and torchvision have for models."""

from __future__ import annotations

import difflib

import timm
import torchvision

from dinobench.errors import UserError


def check_name(model: str, spec: str, pretrained: bool) -> None:
    """Raises UserError, with the names nearest to it, where there is no model of that name; `spec` names it whole.

    torchvision's are taken without weights alone.
    """
    others = [] if pretrained else torchvision.models.list_models(module=torchvision.models)
    if timm.is_model(model) or model in others:
        return
    known = timm.list_models() + others
    near = difflib.get_close_matches(model, known, n=3) or known[:3]
    raise UserError(f"{spec}: there is no model of that name; near it: {', '.join(near)}")
