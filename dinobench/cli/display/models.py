"""The models that can be had by name."""

from __future__ import annotations

from collections.abc import Iterator, Set
from fnmatch import fnmatchcase
from itertools import groupby
from typing import Any

from dinobench import console
from dinobench.cli.display import layout
from dinobench.compare.published import RELEASES, PublishedScore, figures_of
from dinobench.errors import UserError, nearest


def models(pattern: str | None) -> None:
    """References that can be given as they stand, with published figures; all kinds of references without a pattern.

    `pattern`: a part of the reference, or a pattern of the whole or of its end with `*` and `?`. The models that have
    no pretrained weights are listed where it begins with `random:`. Raises UserError where none fits.
    """
    from dinobench.models.sources.hub import cached_models
    from dinobench.models.sources.references import FORMS

    cached = cached_models()
    known = dict(_known(cached, weights=not (pattern or "").startswith("random:")))
    chosen = [name for name in known if pattern is None or _fits(name, pattern)]
    if not chosen:
        hint = nearest((pattern or "").partition(":")[2] or pattern or "", [n.partition(":")[2] for n in known])
        raise UserError(f"no model by name fits {pattern!r}; {hint or '`dinobench list models` shows all'}")
    if pattern is None:
        layout.table("", ["reference", "what it is"], FORMS.items())
        console.text("")
    figures = {name: figures_of(name) for name in chosen}
    rows = [
        [name, *known[name][:2], "yes" if known[name][2] in cached else "", _said(figures[name])] for name in chosen
    ]
    layout.table("", ["reference", "method", "image size", "on disk", "published"], rows)
    if any(not f.checked for several in figures.values() for f in several):
        console.note("?: from memory of the paper; nobody has compared the figure with its source")


def _known(cached: Set[str], weights: bool) -> Iterator[tuple[str, tuple[str, str, str]]]:
    """References with (method, image size, name on the hub)."""
    import timm

    from dinobench.models.factory import tag_method

    if not weights:
        import torchvision

        names = {*timm.list_models(), *torchvision.models.list_models(module=torchvision.models)}
        for name in sorted(names):
            yield f"random:{name}", ("random", "", "")
        return
    timms = set()
    for name in timm.list_models(pretrained=True):
        cfg: Any = timm.get_pretrained_cfg(name)
        height, width = cfg.input_size[1:]
        size = str(height) if height == width else f"{height} x {width}"
        timms.add(cfg.hf_hub_id)
        method = tag_method(name.partition(".")[2])
        yield f"timm:{name}", (tag_method(name) if method == "unknown" else method, size, cfg.hf_hub_id or "")
    by_model = {f.model: f.method.lower() for name in RELEASES for f in figures_of(name)}
    others = {name: by_model.get(model, "") for name, model in RELEASES.items() if not name.startswith("timm:")}
    others |= {f"hf:{model}": "" for model in sorted(cached - timms) if f"hf:{model}" not in others}
    for name, method in others.items():
        yield name, (method, "", name.partition(":")[2])


def _fits(name: str, pattern: str) -> bool:
    name, pattern = name.lower(), pattern.lower()
    if set("*?") & set(pattern):
        return fnmatchcase(name, pattern) or fnmatchcase(name.partition(":")[2], pattern)
    return pattern in name


def _said(figures: list[PublishedScore]) -> str:
    """Figures by data set: "ImageNet-1k knn 74.5, linear 77.0"."""
    parts = []
    for dataset, several in groupby(sorted(figures, key=lambda f: f.dataset != "ImageNet-1k"), lambda f: f.dataset):
        scores = [f"{f.protocol} {f.value:.1f}{'' if f.checked else '?'}" for f in several]
        parts.append(f"{dataset} {', '.join(scores)}")
    return "; ".join(parts)
