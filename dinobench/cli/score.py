"""`dinobench score`: masks of videos against a data set's, label maps against a data set's or a folder of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from dinobench import console, lazy
from dinobench.cli.display import scores as display
from dinobench.cli.options import Json
from dinobench.cli.output import write
from dinobench.errors import UserError

if TYPE_CHECKING:
    import numpy as np

with lazy.imports():
    import numpy as np

score_app = typer.Typer(help="Score files that another program made.", no_args_is_help=True)

#: Classes that a byte per pixel can tell beside 255, which belongs to none.
MOST_CLASSES = 255


class Truths(NamedTuple):
    """What to score against: an id per image, its labels (H, W) uint8 by index, and what the classes are called."""

    name: str
    ids: Sequence[str]
    labels: Callable[[int], np.ndarray]
    classes: Sequence[str]


@score_app.command("davis")
def score_davis(
    predictions: Annotated[Path, typer.Argument(help="A folder of PNG masks per video.")],
    data: Annotated[str, typer.Option(help="A data set in DAVIS's layout; its frames need not be there.")],
    videos: Annotated[str | None, typer.Option(help="Score only these videos, as in dog,camel.")] = None,
    json: Json = False,
    csv: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the official scorer's two CSV files into this folder.")
    ] = None,
) -> None:
    """J and F of masks by any method, as the official scorer computes them: 2016's and 2017's layouts."""
    from dinobench.data import load_dataset
    from dinobench.files import writable_folder
    from dinobench.metrics.video import official_csv
    from dinobench.protocols.davis import score_folder

    if csv is not None:
        writable_folder(csv)
    chosen = videos.split(",") if videos else None
    dataset = load_dataset(data, "videos", progress=console.progress, masks_only=True)
    for note in dataset.notes:
        console.note(note)
    objects, summary = score_folder(predictions, dataset, chosen, progress=console.progress)
    show = display.videos_json if json else display.videos
    show(objects, summary)
    if csv is not None:
        for name, content in official_csv(objects).items():
            write(csv / name, content.encode())


@score_app.command("segmentation")
def score_segmentation(
    predictions: Annotated[Path, typer.Argument(help="A folder of PNG label maps, one per image scored: <id>.png.")],
    data: Annotated[
        str, typer.Option(help="A data set whose val images count, or a folder of PNG label maps of the same names.")
    ],
    classes: Annotated[
        int | None, typer.Option(min=1, max=MOST_CLASSES, help="Number of classes, where the data do not tell.")
    ] = None,
    reduce_zero_label: Annotated[
        bool, typer.Option("--reduce-zero-label", help="0 is ignored in the truth, and label 1 is class 0 (ADE20k).")
    ] = False,
    json: Json = False,
) -> None:
    """mIoU, mAcc and aAcc of label maps by any method, pixels counted over all images. 255 in the truth is ignored."""
    from dinobench.algorithms.semantic_result import semantic_result

    truths = _truths(data, classes, reduce_zero_label)
    areas, unlabelled = _counted(predictions, truths)
    if not areas[:, 2].any():
        raise UserError(
            f"{truths.name}: no labelled pixel in its {len(areas)} label maps, so there is nothing to score"
        )
    if unlabelled:
        console.note(f"{unlabelled:,} labelled pixels are predicted 255, which is no class; they count as wrong")
    result = semantic_result(truths.ids, areas)
    show = display.segmentation_json if json else display.segmentation
    show(truths.classes, areas.sum(axis=0), result)


def _truths(data: str, classes: int | None, reduce_zero_label: bool) -> Truths:
    """Raises UserError where number of classes or meaning of 0 are not those of the data set, or are not given."""
    from dinobench.data import load_dataset, plain_folder
    from dinobench.data.label_maps import numbered, read_map

    folder = plain_folder(data, "label_maps", masks_only=True)
    if folder is None:
        dataset = load_dataset(data, "label_maps", progress=console.progress, masks_only=True)
        if classes not in (None, len(dataset.classes)):
            raise UserError(f"--classes {classes}: {dataset.name} has {len(dataset.classes)} classes")
        if reduce_zero_label and dataset.background is not None:
            raise UserError(f"--reduce-zero-label: class 0 of {dataset.name} is {dataset.classes[0]} and counts")
        return Truths(dataset.name, dataset.test.ids, dataset.test.labels, dataset.classes)
    files = _pngs(folder)
    if not files:
        raise UserError(f"{folder}: no PNG label maps in it, and in no layout of `dinobench list layouts`")
    if classes is None:
        raise UserError(f"--classes is missing: label maps in a folder do not tell how many there are ({folder})")
    table = numbered(classes, reduce_zero_label)
    ids = list(files)
    return Truths(str(folder), ids, lambda i: read_map(files[ids[i]], table), [str(c) for c in range(classes)])


def _counted(folder: Path, truths: Truths) -> tuple[np.ndarray, int]:
    """(areas (n, 3, C) of each image, labelled pixels predicted to be of no class).

    Raises UserError naming the first file that is missing, too many, damaged, in colour, of another size, or that holds
    what is no class.
    """
    from dinobench.data.label_maps import IGNORED, numbered, read_map
    from dinobench.data.video import different_size
    from dinobench.metrics.semantic import areas_of, confusion

    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the one that holds a PNG label map per image")
    files, classes = _pngs(folder), len(truths.classes)
    if missing := [name for name in truths.ids if name not in files]:
        how_many = f"{len(missing):,} of {len(truths.ids):,} label maps are missing"
        raise UserError(f"{folder / missing[0]}.png: no such file ({how_many}); every image of {truths.name} needs one")
    if extra := sorted(files.keys() - set(truths.ids)):
        raise UserError(f"{files[extra[0]]}: predicted for no image of {truths.name}; take it away")
    table = numbered(classes)

    def count(index: int) -> tuple[np.ndarray, int]:
        path = files[truths.ids[index]]
        predicted, truth = read_map(path, table, drawn=False), truths.labels(index)
        if predicted.shape != truth.shape:
            raise UserError(different_size(path, predicted.shape, truth.shape, "its label map"))
        # one more class, which no pixel is labelled with, for pixels that are given none
        counted = confusion(np.where(predicted == IGNORED, classes, predicted), truth, classes + 1)
        return areas_of(counted)[:, :classes], int(counted[:, classes].sum())

    with ThreadPoolExecutor() as pool:
        counts = pool.map(count, range(len(truths.ids)))
        found = list(console.progress(counts, "Scoring label maps", len(truths.ids)))
    return np.stack([areas for areas, _ in found]), sum(none for _, none in found)


def _pngs(folder: Path) -> dict[str, Path]:
    """PNG files at any depth by their path below the folder without its ending, sorted."""
    return {
        path.relative_to(folder).with_suffix("").as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() == ".png" and not path.name.startswith(".")
    }
