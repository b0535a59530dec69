"""A model of [train]: what `dinobench pretrain` is asked for, and where what it makes lies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dinobench.pretrain.run import Run

#: The folder of trainings in the results, beside their histories.
FOLDER = "training"
#: What a training starts from, in its folder.
START = "start.pth"
#: The table of [resources] for trainings.
TRAIN = "train"


@dataclass(frozen=True)
class Training:
    """Options of `dinobench pretrain` by their names, with its defaults.

    `name` is that of the training, `folder` where it lies, `data` a path or an embedded set, `settings` the method's,
    epochs, batch and seed among them. With `start` the model is not what the training ends with but what it starts
    from. `recognisable`: whether its checkpoint tells its architecture.
    """

    name: str
    folder: str
    method: str
    data: str
    arch: str = "vit_small"
    image_size: int = 224
    patch_size: int | None = None
    depth: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    precision: str | None = None
    accumulate: int = 1
    compile: bool = False
    skip_broken: bool = False
    start: bool = False
    recognisable: bool = True

    @property
    def file(self) -> Path:
        """The checkpoint that is scored."""
        from dinobench.pretrain.checkpoints import LATEST

        return Path(self.folder) / (START if self.start else LATEST)

    @property
    def first(self) -> str:
        """What a task does before it scores the model."""
        return f"draws the start of {self.name} first" if self.start else f"trains {self.name} first"

    def run(self) -> Run:
        """The same as a run of `dinobench pretrain`; of the images and the precision nothing is known yet.

        Raises UserError for settings that do not fit.
        """
        import dataclasses

        from dinobench.pretrain import run as runs

        config = runs.configure(runs.load_method(self.method), dict(self.settings))
        return runs.Run(
            self.method, self.arch, self.image_size, self.patch_size, self.depth, self.data,
            dataclasses.asdict(config), "", self.accumulate, self.compile,
            results=str(Path(self.folder).parent.parent), skip_broken=self.skip_broken,
        )  # fmt: skip
