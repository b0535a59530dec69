"""`dinobench visualize`: attention, features, masks, label maps, depth, boxes, points and collapse, drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from dinobench import console, lazy
from dinobench.cli.options import Ckpt, Film, Picture, Settings, finite, with_loading
from dinobench.cli.output import write
from dinobench.errors import UserError
from dinobench.types import LoadOptions

if TYPE_CHECKING:
    from dinobench.context import LocalContext

with lazy.imports():
    import numpy as np

T = TypeVar("T")

visualize_app = typer.Typer(
    help="Pictures of what backbones attend to and follow, and how they collapse.", no_args_is_help=True
)


@visualize_app.command("attention")
@with_loading()
def visualize_attention(
    image: Annotated[Path, typer.Argument(help="An image file.")],
    ckpt: Ckpt,
    output: Picture,
    keep: Annotated[
        float, typer.Option(min=0.01, max=1.0, callback=finite, help="Share of the attention that a mask keeps.")
    ] = 0.6,
    size: Annotated[int, typer.Option(min=16, help="Shorter side in pixels that the image is resized to.")] = 480,
    loading: LoadOptions = LoadOptions(),
) -> None:
    """Each head's attention of the last block, and over the image the patches that hold most of it."""
    import torch

    from dinobench.context import LocalContext
    from dinobench.data.decoding import BROKEN_IMAGE, decode
    from dinobench.data.transforms import ImageTransform, for_backbone
    from dinobench.features.extraction import cut_to_multiple
    from dinobench.report import figures

    kind = _format(output, figures.FIGURES)
    backbone = _loaded(ckpt, loading)
    try:
        original = decode(image)
    except BROKEN_IMAGE as error:
        raise UserError(f"{image}: cannot be read as an image ({error}); give a picture file") from error
    transform = for_backbone(ImageTransform(resize=size, crop=None), backbone)
    patch = backbone.patch_size or 1
    pixels = cut_to_multiple(torch.from_numpy(transform(original))[None], patch)
    with LocalContext().inference():
        attention = backbone.cls_attention(transform.normalise(pixels))[0].numpy()
    seen = np.moveaxis(pixels[0].numpy(), 0, -1)
    patches = seen.shape[0] // patch, seen.shape[1] // patch
    title = f"{backbone.info.name} ({backbone.info.arch}), {image.name}"
    write(output, figures.figure_file(figures.attention_figure(seen, attention, patches, title, keep), kind))


@visualize_app.command("davis")
@with_loading()
def visualize_davis(
    video: Annotated[str, typer.Option(help="The name of a video.")],
    ckpt: Ckpt,
    output: Film,
    data: Annotated[str, typer.Option(help="A data set in DAVIS's layout, or shapes.")] = "shapes",
    set_: Settings = None,
    fps: Annotated[float, typer.Option(min=0.5, max=50, callback=finite, help="Frames per second.")] = 10,
    loading: LoadOptions = LoadOptions(),
) -> None:
    """The first frame's mask carried through a video, beside the annotation, as GIF or MP4."""
    from dinobench.data import load_dataset
    from dinobench.report import figures

    kind = _format(output, figures.VIDEOS)
    protocol, config = _configured("davis", None, set_)
    [chosen] = load_dataset(data, "videos", progress=console.progress).select([video])
    backbone, ctx = _ready(ckpt, loading, protocol, "propagate masks")
    maps = protocol.label_maps(backbone, chosen, config, ctx)
    predictions = list(console.progress(maps, f"Propagating {video}", len(chosen)))
    frames = [chosen.frame(i) for i in range(len(chosen))]
    truths = [chosen.mask(i) for i in range(len(chosen))]
    title = f"{backbone.info.name}, {video}"
    pages = figures.propagation_pages(frames, predictions, truths, title)
    write(output, figures.video_file(pages, fps, kind))


@visualize_app.command("segmentation")
def visualize_segmentation(
    maps: Annotated[list[Path], typer.Argument(help="Folders of label maps <id>.png, as `run --save` leaves them.")],
    data: Annotated[str, typer.Option(help="The data set whose test images the maps are of.")],
    output: Picture,
    images: Annotated[str | None, typer.Option(help="Images by id, as in a,b; the first four without.")] = None,
) -> None:
    """Label maps of one method or several over their images, beside the truth, with a legend."""
    from dinobench.data import load_dataset
    from dinobench.data.label_maps import IGNORED, read_pair
    from dinobench.data.video import read_labels
    from dinobench.report import figures
    from dinobench.report.segmentation import segmentation_figure

    kind = _format(output, figures.FIGURES)
    dataset = load_dataset(data, "label_maps", progress=console.progress)
    split, classes = dataset.test, dataset.classes
    ids = list(split.ids)
    chosen = _chosen(images, ids, 4, dataset.name)
    pairs = _read(lambda name: read_pair(split, ids.index(name)), chosen, dataset.name)
    pixels, truths = [np.asarray(image) for image, _ in pairs], [truth for _, truth in pairs]

    def labels(file: Path) -> np.ndarray:
        own = read_labels(file)
        if (worst := int(own[own < IGNORED].max(initial=0))) >= len(classes):
            raise UserError(f"{file}: holds class {worst}, {dataset.name} has {len(classes)}")
        return own

    columns = [_maps([folder / f"{name}.png" for name in chosen], truths, labels) for folder in maps]
    names = [*(folder.name for folder in maps), "truth"]
    figure = segmentation_figure(pixels, [*columns, truths], names, classes, dataset.name, dataset.background)
    write(output, figures.figure_file(figure, kind))


@visualize_app.command("collapse")
def visualize_collapse(
    runs: Annotated[list[str], typer.Argument(help="Folders of pretrainings, or their .jsonl; name=path renames one.")],
    output: Picture,
    outputs: Annotated[int | None, typer.Option(min=2, help="K, outputs of DINO's head: draws log K.")] = None,
) -> None:
    """The teacher's entropy and KL(teacher ‖ student) of several pretrainings side by side: the paper's Figure 7."""
    from dinobench.pretrain.history import named_history
    from dinobench.pretrain.plots import collapse_figure
    from dinobench.report import figures

    kind = _format(output, figures.FIGURES)
    histories: dict[str, Any] = {}
    for run in runs:
        name, history = named_history(run)
        if name in histories:
            raise UserError(f"{run}: another run is called {name} too; rename one, as in other={run}")
        histories[name] = history
    write(output, figures.figure_file(collapse_figure(histories, outputs), kind))


@visualize_app.command("discovery")
def visualize_discovery(
    boxes: Annotated[
        list[Path], typer.Argument(help="Files boxes.json or their folders, as `run --save` leaves them.")
    ],
    data: Annotated[str, typer.Option(help="The data set with boxes that they were found in.")],
    output: Picture,
    split: Annotated[str, typer.Option(help="The list or set of it, where not the usual one.")] = "",
    images: Annotated[str | None, typer.Option(help="Images by id, as in a,b; the first eight without.")] = None,
) -> None:
    """Boxes found by one run or several, over the images and the annotated boxes."""
    from dinobench.data import load_dataset
    from dinobench.data.boxes import BOXES, read_found
    from dinobench.report import figures
    from dinobench.report.boxes import boxes_figure

    kind = _format(output, figures.FIGURES)
    found = {(path.parent if path.name == BOXES else path).resolve().name: read_found(path) for path in boxes}
    if len(found) < len(boxes):
        raise UserError(f"two of the runs lie in folders of one name ({', '.join(found)}); rename one of them")
    dataset = load_dataset(data, "boxes", progress=console.progress).select(split)
    ids = [name for name in dataset.ids if all(name in each for each in found.values())]
    if not ids:
        raise UserError(f"{boxes[0]}: has no box of an image of {dataset.name}; give the data that it was found in")
    chosen = _chosen(images, ids, 8, f"{dataset.name} with boxes")
    pixels = _read(lambda name: np.asarray(dataset.load(name)), chosen, dataset.name)
    truths = [dataset.boxes[list(dataset.ids).index(name)] for name in chosen]
    shown = {run: [each[name] for name in chosen] for run, each in found.items()}
    write(output, figures.figure_file(boxes_figure(pixels, truths, shown, chosen, dataset.name), kind))


@visualize_app.command("correspondence")
@with_loading()
def visualize_correspondence(
    ckpt: Ckpt,
    output: Picture,
    data: Annotated[str, typer.Option(help="A data set in SPair-71k's layout, or shapes.")] = "shapes",
    pair: Annotated[
        list[str] | None, typer.Option(help="The name of a pair; repeat for several. The first of each class if none.")
    ] = None,
    profile: Annotated[str | None, typer.Option(help="How points are looked for: a profile of correspondence.")] = None,
    set_: Settings = None,
    loading: LoadOptions = LoadOptions(),
) -> None:
    """Keypoints of one image and where a backbone finds them in another: right ones green, the truth ringed."""
    from dinobench.data import load_dataset
    from dinobench.report import figures, points

    kind = _format(output, figures.FIGURES)
    protocol, config = _configured("correspondence", profile, set_)
    dataset = load_dataset(data, "keypoints", progress=console.progress)
    chosen = points.chosen_pairs(dataset, pair or [])
    backbone, ctx = _ready(ckpt, loading, protocol, "find points")
    found = protocol.matches(backbone, dataset, chosen, config, ctx)
    images = [(np.asarray(dataset.load(one.source)), np.asarray(dataset.load(one.target))) for one in chosen]
    right = [protocol.correct(one.ratios, config.alphas[0], config.strict) for one in found]
    title = f"{backbone.info.name}, within {config.alphas[0]:g} of the box"
    figure = points.points_figure(images, chosen, [one.points for one in found], right, title)
    write(output, figures.figure_file(figure, kind))


@visualize_app.command("depth")
def visualize_depth(
    maps: Annotated[list[Path], typer.Argument(help="Folders of depth as PNG, as `run --save` leaves them.")],
    data: Annotated[str, typer.Option(help="The data set whose test images the depth is of.")],
    output: Picture,
    images: Annotated[str | None, typer.Option(help="Images by id, as in a,b; the first four without.")] = None,
) -> None:
    """Depth by one method or several beside the images and the truth, on one colour bar."""
    from dinobench.data import load_dataset
    from dinobench.data.depth_maps import pair, png_name, read_depth
    from dinobench.report import figures
    from dinobench.report.depth import depth_figure

    kind = _format(output, figures.FIGURES)
    dataset = load_dataset(data, "depth", progress=console.progress)
    ids = list(dataset.test.ids)
    chosen = _chosen(images, ids, 4, dataset.name)
    pairs = _read(lambda name: pair(dataset.test, ids.index(name)), chosen, dataset.name)
    pixels, truths = [np.asarray(image) for image, _ in pairs], [truth for _, truth in pairs]
    read = partial(read_depth, scale=dataset.convention.scale)
    columns = [_maps([folder / png_name(name) for name in chosen], truths, read) for folder in maps]
    names = [*(folder.name for folder in maps), "truth"]
    write(output, figures.figure_file(depth_figure(pixels, [*columns, truths], names, dataset.name), kind))


@visualize_app.command("features")
@with_loading()
def visualize_features(
    images: Annotated[list[Path], typer.Argument(help="Image files, which share one basis of colours.")],
    ckpt: Annotated[list[str], typer.Option(help="A model, optionally as name=...; repeat for several columns.")],
    output: Picture,
    foreground: Annotated[
        str,
        typer.Option(help="Patches to colour: all, or by their first component those above or below the threshold."),
    ] = "all",
    threshold: Annotated[
        float, typer.Option(callback=finite, help="Where the foreground begins, in standard deviations from the mean.")
    ] = 0.0,
    size: Annotated[int, typer.Option(min=16, help="Shorter side in pixels that images are resized to.")] = 448,
    loading: LoadOptions = LoadOptions(),
) -> None:
    """Patches of several images in the colours of their first three principal components, on one basis."""
    from dinobench import runtime
    from dinobench.context import LocalContext
    from dinobench.features.pictures import seen_and_maps
    from dinobench.report import features, figures

    kind = _format(output, figures.FIGURES)
    if foreground not in features.SIDES:
        raise UserError(f"--foreground {foreground}: give {', '.join(features.SIDES)}")
    ctx = LocalContext(runtime.start().device)
    columns: dict[str, list[np.ndarray]] = {}
    for spec in ckpt:
        backbone = _loaded(spec, loading).to(ctx.device)
        if backbone.info.name in columns:
            raise UserError(f"{spec}: another model is called {backbone.info.name} too; rename one, as in other={spec}")
        seen, maps = seen_and_maps(backbone, images, size, ctx)
        try:
            columns[backbone.info.name] = features.component_colours(maps, foreground, threshold)
        except ValueError as error:
            raise UserError(f"{backbone.info.name}: {error}; move --threshold or give larger images") from error
    title = "first three components of patches" + f", {foreground} the threshold" * (foreground != "all")
    figure = features.features_figure(seen, list(columns.values()), list(columns), title)
    write(output, figures.figure_file(figure, kind))


def _format(output: Path, formats: Sequence[str]) -> str:
    """What to write a picture as. Raises UserError, before anything is computed, for a name that cannot be written."""
    from dinobench.files import check_output
    from dinobench.report import figures

    kind = figures.format_of(output, formats)
    check_output(output)
    return kind


def _loaded(ckpt: str, loading: LoadOptions) -> Any:
    """The backbone, under the name that stands before its reference; what was assumed of it is noted."""
    from dinobench.models.loading import load_backbone
    from dinobench.models.sources.references import split_name

    name, reference = split_name(ckpt)
    backbone = load_backbone(reference, name=name, **vars(loading))
    for line in backbone.assumed:
        console.note(line)
    return backbone


def _configured(name: str, profile: str | None, settings: list[str] | None) -> tuple[Any, Any]:
    """A protocol and its configuration."""
    from dinobench import registry
    from dinobench.config import parse_settings, resolve_config

    protocol: Any = registry.load(name)
    return protocol, resolve_config(protocol, profile, parse_settings(settings or [])).config


def _ready(ckpt: str, loading: LoadOptions, protocol: Any, purpose: str) -> tuple[Any, LocalContext]:
    """The backbone on the device, and a context there. Raises UserError where it lacks what the protocol needs."""
    from dinobench import runtime
    from dinobench.context import LocalContext

    device = runtime.start().device
    backbone = _loaded(ckpt, loading).to(device)
    if lacks := sorted(protocol.requires - backbone.capabilities):
        raise UserError(f"{backbone.info.name} ({backbone.info.arch}) has no {', '.join(lacks)} to {purpose} with")
    return backbone, LocalContext(device)


def _chosen(images: str | None, ids: Sequence[str], most: int, of: str) -> list[str]:
    """The images that are named, or else the first `most`. Raises UserError for one that is not in `of`."""
    from dinobench.errors import unknown_name

    chosen = images.split(",") if images else list(ids[:most])
    if unknown := [name for name in chosen if name not in ids]:
        raise unknown_name(f"image of {of}", unknown[0], ids[:20])
    return chosen


def _read(read: Callable[[str], T], chosen: Sequence[str], of: str) -> list[T]:
    """What `read` gives of each image. Raises UserError where one cannot be read."""
    from dinobench.data.decoding import BROKEN_IMAGE

    try:
        return [read(name) for name in chosen]
    except BROKEN_IMAGE as error:
        raise UserError(f"{of}: an image of {', '.join(chosen)} cannot be read ({error})") from error


def _maps(files: Sequence[Path], truths: Sequence[np.ndarray], read: Callable[[Path], np.ndarray]) -> list[np.ndarray]:
    """Maps of one method, of the truths' sizes. Raises UserError where one is of another size."""
    from dinobench.data.video import different_size

    maps = [read(file) for file in files]
    for file, own, truth in zip(files, maps, truths, strict=True):
        if own.shape != truth.shape:
            raise UserError(different_size(file, own.shape, truth.shape, "its image"))
    return maps
