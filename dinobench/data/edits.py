"""What people do to pictures before they pass them on: the edits that made copies are put through.

An edit takes an RGB image, a random generator and another photo (for those that mix two) and returns the edited image
with the parameters it drew. The kinds follow Copydays' strong attacks (Douze et al. 2009) and the image similarity
challenge (arXiv 2106.09672, table 2): geometry, quality, colour, and things put on top.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps

from dinobench.data.decoding import open_image

Edit = Callable[[Image.Image, np.random.Generator, Image.Image], tuple[Image.Image, dict[str, Any]]]

# fmt: off
WORDS = ["look", "what", "I", "found", "today", "best", "day", "ever", "do", "not", "miss", "this", "new", "sale",
         "share", "with", "friends", "hello", "from", "the", "sea"]
# fmt: on


def recompress(image: Image.Image, quality: int) -> Image.Image:
    """The image as it comes back from JPEG at `quality` (1..95)."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    with open_image(buffer) as image:
        return image.convert("RGB")


def crop_share(image: Image.Image, removed: float, x: float = 0.5, y: float = 0.5) -> Image.Image:
    """Cut away the share `removed` (0..1) of the surface, keeping the aspect; x, y in 0..1 place what is kept."""
    side = (1 - removed) ** 0.5
    width, height = max(1, round(image.width * side)), max(1, round(image.height * side))
    left, top = round((image.width - width) * x), round((image.height - height) * y)
    return image.crop((left, top, left + width, top + height))


def warp(image: Image.Image, corners: Sequence[Sequence[float]], fill: tuple[int, int, int] = (0, 0, 0)) -> Image.Image:
    """Move the image's corners (top left, top right, bottom right, bottom left) to `corners`, in shares of its size."""
    w, h = image.size
    source = [(0, 0), (w, 0), (w, h), (0, h)]
    rows: list[list[float]] = []
    for (u, v), (x, y) in zip(source, [(cx * w, cy * h) for cx, cy in corners], strict=True):
        rows.append([x, y, 1, 0, 0, 0, -u * x, -u * y])
        rows.append([0, 0, 0, x, y, 1, -v * x, -v * y])
    coefficients = np.linalg.solve(np.array(rows), np.array(source, dtype=float).ravel())
    return image.transform(
        (w, h), Image.Transform.PERSPECTIVE, coefficients.tolist(), Image.Resampling.BICUBIC, fillcolor=fill
    )


def _uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """A draw rounded so that the manifest states exactly what was done."""
    return round(float(rng.uniform(low, high)), 3)


def _colour(rng: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = (int(c) for c in rng.integers(0, 256, 3))
    return red, green, blue


def jpeg(image: Image.Image, rng: np.random.Generator, other: Image.Image) -> tuple[Image.Image, dict[str, Any]]:
    quality = int(rng.integers(3, 16))
    return recompress(image, quality), {"quality": quality}


def crop(image: Image.Image, rng: np.random.Generator, other: Image.Image) -> tuple[Image.Image, dict[str, Any]]:
    done = {"removed": _uniform(rng, 0.4, 0.8), "x": _uniform(rng, 0, 1), "y": _uniform(rng, 0, 1)}
    return crop_share(image, **done), done


def rotate(image: Image.Image, rng: np.random.Generator, other: Image.Image) -> tuple[Image.Image, dict[str, Any]]:
    degrees, fill = _uniform(rng, 5, 45) * float(rng.choice([-1, 1])), _colour(rng)
    turned = image.rotate(degrees, Image.Resampling.BICUBIC, expand=True, fillcolor=fill)
    return turned, {"degrees": degrees, "fill": fill}


def perspective(image: Image.Image, rng: np.random.Generator, other: Image.Image) -> tuple[Image.Image, dict[str, Any]]:
    inset = rng.uniform(0, 0.25, (4, 2)).round(3)
    corners = np.abs(np.array([(0, 0), (1, 0), (1, 1), (0, 1)]) - inset).round(3).tolist()
    return warp(image, corners, _colour(rng)), {"corners": corners}


def blur(image: Image.Image, rng: np.random.Generator, other: Image.Image) -> tuple[Image.Image, dict[str, Any]]:
    radius = round(_uniform(rng, 0.008, 0.025) * max(image.size), 2)
    return image.filter(ImageFilter.GaussianBlur(radius)), {"radius": radius}


def noise(image: Image.Image, rng: np.random.Generator, other: Image.Image) -> tuple[Image.Image, dict[str, Any]]:
    sigma = _uniform(rng, 20, 60)
    pixels = np.asarray(image, dtype=np.float32) + rng.normal(0, sigma, (image.height, image.width, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), {"sigma": sigma}


def colour(image: Image.Image, rng: np.random.Generator, other: Image.Image) -> tuple[Image.Image, dict[str, Any]]:
    done = {name: _uniform(rng, 0.5, 1.6) for name in ("brightness", "contrast", "saturation")}
    done["hue"] = int(rng.integers(-40, 41))
    hue, saturation, value = image.convert("HSV").split()
    hue = hue.point([(i + done["hue"]) % 256 for i in range(256)])
    out = Image.merge("HSV", (hue, saturation, value)).convert("RGB")
    for name, enhance in (
        ("brightness", ImageEnhance.Brightness),
        ("contrast", ImageEnhance.Contrast),
        ("saturation", ImageEnhance.Color),
    ):
        out = enhance(out).enhance(done[name])
    return out, done


def text(image: Image.Image, rng: np.random.Generator, other: Image.Image) -> tuple[Image.Image, dict[str, Any]]:
    out = image.copy()
    draw = ImageDraw.Draw(out)
    lines = [" ".join(rng.choice(WORDS, int(rng.integers(2, 5)))) for _ in range(int(rng.integers(1, 5)))]
    size = max(8, round(min(image.size) * _uniform(rng, 0.08, 0.2)))
    font, fill, edge = ImageFont.load_default(size), _colour(rng), _colour(rng)
    for line in lines:
        x, y = _uniform(rng, 0, 0.4) * image.width, _uniform(rng, 0, 0.85) * image.height
        draw.text((x, y), line, font=font, fill=fill, stroke_width=max(1, size // 12), stroke_fill=edge)
    return out, {"lines": lines, "size": size}


def picture(image: Image.Image, rng: np.random.Generator, other: Image.Image) -> tuple[Image.Image, dict[str, Any]]:
    """The other photo as a sticker on this one, or this one as an inset in the other."""
    inset = bool(rng.integers(0, 2))
    share = _uniform(rng, 0.45, 0.7) if inset else _uniform(rng, 0.3, 0.55)
    below, above = (other.resize(image.size), image) if inset else (image.copy(), other)
    width, height = max(1, round(below.width * share)), max(1, round(below.height * share))
    at = (round(_uniform(rng, 0, 1) * (below.width - width)), round(_uniform(rng, 0, 1) * (below.height - height)))
    below.paste(above.resize((width, height)), at)
    return below, {"inset": inset, "share": share, "at": at}


def border(image: Image.Image, rng: np.random.Generator, other: Image.Image) -> tuple[Image.Image, dict[str, Any]]:
    width, fill = max(1, round(_uniform(rng, 0.08, 0.3) * min(image.size))), _colour(rng)
    return ImageOps.expand(image, width, fill), {"width": width, "fill": fill}


def grey(image: Image.Image, rng: np.random.Generator, other: Image.Image) -> tuple[Image.Image, dict[str, Any]]:
    return image.convert("L").convert("RGB"), {}


def flip(image: Image.Image, rng: np.random.Generator, other: Image.Image) -> tuple[Image.Image, dict[str, Any]]:
    across = bool(rng.random() < 0.75)
    way = Image.Transpose.FLIP_LEFT_RIGHT if across else Image.Transpose.FLIP_TOP_BOTTOM
    return image.transpose(way), {"axis": "left-right" if across else "top-bottom"}


def screen(image: Image.Image, rng: np.random.Generator, other: Image.Image) -> tuple[Image.Image, dict[str, Any]]:
    """As photographed off a screen: pixel lines beating with the sensor, glare, a colour cast, a slight angle."""
    pitch, angle, depth = _uniform(rng, 2.5, 6), _uniform(rng, -0.3, 0.3), _uniform(rng, 0.1, 0.25)
    cast = [_uniform(rng, 0.8, 1.05) for _ in range(3)]
    glare = [_uniform(rng, 0, 1), _uniform(rng, 0, 1), _uniform(rng, 40, 110)]
    y, x = np.mgrid[0 : image.height, 0 : image.width].astype(np.float32)
    lines = 1 - depth * (1 + np.sin((x + angle * y) * (2 * np.pi / pitch))) * (1 + np.sin(y * (2 * np.pi / pitch))) / 2
    distance = (x / image.width - glare[0]) ** 2 + (y / image.height - glare[1]) ** 2
    pixels = np.asarray(image, dtype=np.float32) * lines[..., None] * np.array(cast, dtype=np.float32)
    pixels += glare[2] * np.exp(-distance / 0.05)[..., None]
    shot = Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.7))
    inset = rng.uniform(0.02, 0.12, (4, 2)).round(3)
    corners = np.abs(np.array([(0, 0), (1, 0), (1, 1), (0, 1)]) - inset).round(3).tolist()
    done = {"pitch": pitch, "angle": angle, "depth": depth, "cast": cast, "glare": glare, "corners": corners}
    return warp(shot, corners, (15, 15, 18)), done


EDITS: dict[str, Edit] = {
    "jpeg": jpeg,
    "crop": crop,
    "rotate": rotate,
    "perspective": perspective,
    "blur": blur,
    "noise": noise,
    "colour": colour,
    "text": text,
    "picture": picture,
    "border": border,
    "grey": grey,
    "flip": flip,
    "screen": screen,
}


def edited(
    image: Image.Image, other: Image.Image, rng: np.random.Generator, first: str
) -> tuple[Image.Image, list[dict[str, Any]]]:
    """One strong copy: the edit `first` and one or two others, in random order; the image and what was done."""
    others = [name for name in EDITS if name != first]
    chosen = [first, *rng.choice(others, int(rng.integers(1, 3)), replace=False).tolist()]
    done = []
    for name in rng.permutation(chosen).tolist():
        image, parameters = EDITS[name](image, rng, other)
        done.append({"edit": name, **parameters})
    return image, done
