"""Folders of small image files with different contents."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from dinobench.data.layouts import imagefolder


def grow(root: Path, *names: str) -> Path:
    """Image files with different contents at `root/name`; a name that ends in / makes an empty folder."""
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            (root / name).mkdir()
        elif name.endswith(imagefolder.EXTENSIONS) or name.upper() == name:
            with open(root / name, "wb") as file:
                Image.new("RGB", (4, 3), (i, 2 * i, 255 - i)).save(file, "PNG")
        else:
            (root / name).write_text("no image")
    return root
