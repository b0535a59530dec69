"""Where a checkpoint's weights lie on the disk, told from names alone and without torch."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from dinobench.errors import UserError

# what Hugging Face puts into a model's folder, in the order in which its own loader looks; then open_clip's
FOLDER_FILES = tuple(f"{n}{end}" for n in ("model.safetensors", "pytorch_model.bin") for end in ("", ".index.json"))
FOLDER_FILES += ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.(?P<kind>safetensors|bin)")
DISTRIBUTED = (
    "is of a distributed checkpoint (DCP); make one file of its folder with "
    "torch.distributed.checkpoint.format_utils.dcp_to_torch_save(FOLDER, 'whole.pth') and give that"
)


def weights_file(path: Path) -> Path:
    """The file itself, or what holds the weights in a Hugging Face model folder; nothing of it is read.

    Raises UserError, one line with the remedy, where there is no such file, or it is a part of a checkpoint.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check the path (a timm model is written timm:NAME)") from None
    except (OSError, ValueError) as error:  # endless links, names too long, no permission
        raise UserError(f"{path}: cannot be read: {getattr(error, 'strerror', '') or error}") from None
    if stat.S_ISDIR(mode):
        if (path / ".metadata").is_file() or next(path.glob("*.distcp"), None):
            raise UserError(f"{path}: {DISTRIBUTED.replace('FOLDER', repr(str(path)))}")
        for name in FOLDER_FILES:
            if (path / name).is_file():
                return path / name
        raise UserError(f"{path}: is a folder; give the checkpoint file in it")
    if not stat.S_ISREG(mode):
        raise UserError(f"{path}: is not a regular file")
    if path.suffix == ".distcp" or path.name == ".metadata":
        raise UserError(f"{path}: {DISTRIBUTED.replace('FOLDER', repr(str(path.parent)))}")
    refuse_part(path)
    return path


def is_index(path: Path) -> bool:
    """Whether the name is that of a sharded save's index."""
    return path.name.endswith(".json")


def refuse_part(path: Path) -> None:
    """Raises UserError for one of several parts, naming what to give in its place."""
    match = PART.fullmatch(path.name)
    if match is None or int(match["count"]) == 1:
        return
    index = path.with_name(f"{match['stem']}.{match['kind']}.index.json")
    remedy = f"give its index, {index}" if index.is_file() else f"{index.name}, its index, is not beside it: fetch both"
    raise UserError(
        f"{path}: is part {int(match['number'])} of {int(match['count'])} of a sharded checkpoint; {remedy}"
    )
