"""Distributions with plug-ins, made by hand: what pip would have left in site-packages."""

from __future__ import annotations

from pathlib import Path

#: A protocol that runs in no time: every image of digits counts as right.
PROTOCOL = """
from dataclasses import dataclass
import pandas as pd
from dinobench.types import Metric, Result, setting

@dataclass(frozen=True)
class Config:
    k: int = setting(3, "a number")

name, version, summary, data = {name!r}, 1, "all is right", "classification"
requires, profiles = frozenset({{"features"}}), {{"default": Config()}}

def metrics(config):
    return (Metric("top1", primary=True),)

def run(backbone, data, config, ctx):
    return Result({{"top1": 100.0}}, pd.DataFrame({{"id": list(data.test.ids), "top1": [1.0] * len(data.test.ids)}}))
"""

#: A method that trains next to nothing.
METHOD = """
from dinobench.pretrain.heads import mlp
from dinobench.pretrain.method import Method, MethodConfig, MethodOutput, Network, View

class Own(Method):
    name, summary, config_type = {name!r}, "makes outputs small", MethodConfig

    def __init__(self, config, spec):
        super().__init__(config, spec)
        self.student = Network(spec.backbone(0.0), mlp((spec.embed_dim, 8, 4)))

    @staticmethod
    def views(config, image_size):
        return (View(size=image_size),)

    def forward(self, views, labels, now):
        out, features = self.student(views)
        return MethodOutput(out.square().mean(), {{}}, {{"student": features.detach()}})

METHOD = Own
"""


def install(
    site: Path, name: str, source: str | None, group: str = "protocols", version: str = "1.0", value: str = ""
) -> None:
    """The distribution NAME-dist with one entry point `name` that is the module `name`_module, or `value`."""
    info = site / f"{name}_dist-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-dist\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[dinobench.{group}]\n{name} = {value or f'{name}_module'}\n")
    if source is not None:
        (site / f"{name}_module.py").write_text(source)


def protocol(name: str, more: str = "") -> str:
    """The text of `PROTOCOL`'s module with lines of its own at the end, which may change what stands above."""
    return PROTOCOL.format(name=name) + more


def method(name: str, more: str = "") -> str:
    return METHOD.format(name=name) + more
