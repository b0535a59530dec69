"""Pictures for papers: per-head attention over an image, and a propagated video beside its ground truth."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dinobench.errors import UserError
from dinobench.metrics.segmentation import boundary, kept_mass_masks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Colours that differ for all kinds of colour vision (Okabe and Ito 2008), the first for the first object or head.
COLORS = np.array(
    [[86, 180, 233], [230, 159, 0], [0, 158, 115], [240, 228, 66], [0, 114, 178], [213, 94, 0], [204, 121, 167]],
    np.uint8,
)
COLUMNS = 6  # heads per row
INCHES = 1.9  # of one panel


def attention_figure(
    image: np.ndarray, attention: np.ndarray, grid: tuple[int, int], title: str, keep: float = 0.6
) -> Figure:
    """The image, then for every head its map over the image and, below, the patches that keep the mass.

    image (H, W, 3) uint8 as the backbone saw it; attention (heads, rows * columns) with `grid` = (rows, columns).
    The figure belongs to no window; save it with `savefig`, or `figure_file`.
    """
    from matplotlib.figure import Figure

    heads = len(attention)
    height, width = image.shape[:2]
    columns = min(heads, COLUMNS) + 1
    bands = -(-heads // COLUMNS)
    panel = INCHES * height / width
    figure = Figure(figsize=(INCHES * columns, 2 * bands * (panel + 0.3) + 0.4), dpi=200, layout="constrained")
    axes = figure.subplots(2 * bands, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    axes[0, 0].imshow(image)
    axes[0, 0].set_title("image", fontsize=8)
    kept = kept_mass_masks(attention, keep)
    for head in range(heads):
        top, bottom = (axes[2 * (head // COLUMNS) + k, 1 + head % COLUMNS] for k in (0, 1))
        heat = _enlarged(attention[head].reshape(grid), (height, width), Image.Resampling.BILINEAR)
        top.imshow(_grey(image))
        top.imshow(heat, cmap="inferno", alpha=0.75)
        top.set_title(f"head {head}", fontsize=8)
        mask = _enlarged(kept[head].reshape(grid), (height, width), Image.Resampling.NEAREST) > 0.5
        bottom.imshow(np.where(mask[..., None], image, _grey(image) // 4))
        bottom.set_title(f"{100 * kept[head].mean():.0f} % of the patches", fontsize=7)
    axes[1, 0].text(
        0.5, 0.5, f"patches that keep\n{100 * keep:g} % of the\nattention", ha="center", va="center", fontsize=8
    )
    figure.suptitle(title, fontsize=9, parse_math=False)  # a file's name may hold any sign
    return figure


#: What a figure can be written as, and what a video: the endings of file names.
FIGURES = ("png", "svg", "pdf")
VIDEOS = ("gif", "mp4")


def format_of(path: Path, formats: Sequence[str]) -> str:
    """The one of `formats` that a file's name ends in, upper or lower case. Raises UserError where it is none."""
    found = path.suffix.lower().removeprefix(".")
    if found not in formats:
        *others, last = (f".{f}" for f in formats)
        raise UserError(f"{path}: its ending decides the format; end it in {', '.join(others)} or {last}")
    return found


def figure_file(figure: Figure, kind: str = "png") -> bytes:
    """The figure as a file of one of `FIGURES`: the same bytes for the same figure, whenever it is written."""
    import matplotlib

    buffer = BytesIO()
    undated = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[kind]
    with matplotlib.rc_context({"svg.hashsalt": "dinobench"}):
        figure.savefig(buffer, format=kind, metadata=undated)
    return buffer.getvalue()


def overlay(image: np.ndarray, labels: np.ndarray, strength: float = 0.55) -> np.ndarray:
    """The image (H, W, 3) uint8 with each object of labels (H, W) tinted and outlined; the rest is left as it is."""
    out = image.astype(np.float32)
    for label in np.unique(labels[labels > 0]):
        inside = labels == label
        color = COLORS[(int(label) - 1) % len(COLORS)].astype(np.float32)
        out[inside] = (1 - strength) * out[inside] + strength * color
        out[boundary(inside) > 0] = color
    return np.rint(out).astype(np.uint8)


def propagation_pages(
    frames: Sequence[np.ndarray],
    predictions: Sequence[np.ndarray],
    truths: Sequence[np.ndarray],
    title: str,
    width: int = 400,
) -> list[np.ndarray]:
    """The propagated masks beside the ground truth, over the frames: images (H', W', 3) uint8 of one size.

    frames (H, W, 3) uint8, predictions and truths (H, W) uint8 labels, one each per frame; `width` of one side in
    pixels. `title` is set above the masks.
    """
    pages = []
    for index, (frame, predicted, true) in enumerate(zip(frames, predictions, truths, strict=True)):
        sides = [_scaled(overlay(frame, labels), width) for labels in (predicted, true)]
        captions = (f"{title}: frame {index}", "ground truth")
        pages.append(np.concatenate([_captioned(side, text) for side, text in zip(sides, captions, strict=True)], 1))
    return pages


def video_file(pages: Sequence[np.ndarray], fps: float, kind: str = "gif") -> bytes:
    """Images (H, W, 3) uint8 of one size as a file of one of `VIDEOS`. Raises UserError where OpenCV lacks a codec."""
    return animated(pages, fps) if kind == "gif" else _mp4(pages, fps)


def _mp4(pages: Sequence[np.ndarray], fps: float) -> bytes:
    """MPEG-4 part 2 in MP4, which every OpenCV can write; its sides are even, by a white line where they were not."""
    import cv2

    height, width = (side + side % 2 for side in pages[0].shape[:2])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, (width, height))
        if not writer.isOpened():
            raise UserError("this OpenCV cannot write MP4; end the name in .gif, or install opencv-python-headless")
        for page in pages:
            even = np.full((height, width, 3), 255, np.uint8)
            even[: page.shape[0], : page.shape[1]] = page
            writer.write(even[..., ::-1])  # as BGR
        writer.release()
        return path.read_bytes()


def animated(pages: Sequence[np.ndarray], fps: float) -> bytes:
    """Images (H, W, 3) uint8 of one size as a GIF without end; one palette for all, so that colours do not flicker."""
    sample = Image.fromarray(np.concatenate(pages[:: max(1, len(pages) // 8)]))
    shared = sample.quantize(256, Image.Quantize.MEDIANCUT)
    images = [Image.fromarray(page).quantize(palette=shared, dither=Image.Dither.NONE) for page in pages]
    buffer = BytesIO()
    options: dict[str, Any] = {"duration": round(1000 / fps), "loop": 0, "disposal": 1}
    images[0].save(buffer, "GIF", save_all=True, append_images=images[1:], **options)
    return buffer.getvalue()


def _enlarged(values: np.ndarray, size: tuple[int, int], how: Image.Resampling) -> np.ndarray:
    """(rows, columns) -> (H, W) float32."""
    image = Image.fromarray(values.astype(np.float32))
    return np.asarray(image.resize((size[1], size[0]), how))


def _grey(image: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(image).convert("L").convert("RGB"))


def _scaled(image: np.ndarray, width: int) -> np.ndarray:
    height = round(image.shape[0] * width / image.shape[1])
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def _captioned(image: np.ndarray, text: str, height: int = 22) -> np.ndarray:
    """The image under a white strip with the text."""
    strip = Image.new("RGB", (image.shape[1], height), "white")
    font = ImageFont.load_default(size=13)
    draw = ImageDraw.Draw(strip)
    while text and draw.textlength(text, font=font) > image.shape[1] - 8:
        text = text[:-2].rstrip("…") + "…" if len(text) > 2 else ""
    draw.text((4, 3), text, fill="black", font=font)
    return np.concatenate([np.asarray(strip), image])
