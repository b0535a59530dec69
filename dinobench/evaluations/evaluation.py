"""One cell of what is asked for: a protocol as configured, on one data set, of one backbone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from dinobench import registry
from dinobench.config import Resolved
from dinobench.files import file_name
from dinobench.hashing import digest
from dinobench.inputs import reading_of
from dinobench.types import Backbone, EvalProtocol, FeatureRequest, ImageSplit


@dataclass(frozen=True)
class Evaluation:
    """What makes one number: a protocol as configured, a data set, a backbone."""

    protocol: EvalProtocol
    resolved: Resolved
    data: Any
    backbone: Backbone
    seed: int
    precision: str

    @cached_property
    def run_id(self) -> str:
        """The same for the same thing run twice: names for people, then a digest of all that decides the numbers."""
        info = self.backbone.info
        read = reading_of(info)
        identity = digest(
            self.resolved.hash(self.protocol), self.data.fingerprint, info.weights_digest, info.arch, info.heads,
            info.missing, info.name, self.data.name, self.seed, self.precision, *([read] if read else []),
        )  # fmt: skip
        readable = "-".join([self.protocol.name, info.name, self.data.name])
        return f"{file_name(readable)}-{identity[:10]}"

    def requests(self) -> list[tuple[ImageSplit, FeatureRequest]]:
        """Features that the protocol says it will ask for; none when it does not say."""
        ask = getattr(self.protocol, "requests", None)
        if ask is None:
            return []
        with registry.answering("protocol", self.protocol.name):
            pairs = [(split, request) for split, request in ask(self.data, self.resolved.config, self.backbone)]
            if not all(isinstance(request, FeatureRequest) for _, request in pairs):
                raise TypeError("requests returned what are not pairs of a split and a FeatureRequest")
        return pairs

    def lacks(self) -> list[str]:
        """What the protocol, or this configuration of it, cannot do without and the backbone has not."""
        needs = set(self.protocol.requires)
        for _, request in self.requests():
            needs |= {"layers"} if request.layers > 1 else set()
            needs |= {"patches"} if request.mean_patches else set()
        return sorted(needs - self.backbone.capabilities)

    @property
    def table(self) -> tuple[str, str, str]:
        """What is the same for all backbones, whose scores stand in one table."""
        return self.protocol.name, self.data.name, self.data.fingerprint
