"""Data sets that need no path: drawn, or cut from what installed libraries bring."""

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple

from dinobench.data.layouts import ANY_IMAGES, UNLABELLED


class EmbeddedSet(NamedTuple):
    """A data set that comes with the package: `maker` is "module:function", a function of the data set's name."""

    maker: str
    summary: str

    def make(self, name: str) -> Any:
        """The data set, called `name`."""
        module, function = self.maker.split(":")
        return getattr(import_module(module), function)(name)


#: Embedded data sets by kind and by the name that `--data` takes.
EMBEDDED: dict[str, dict[str, EmbeddedSet]] = {
    "classification": {
        "digits": EmbeddedSet(
            "dinobench.data.embedded.digits:digits",
            "the word `digits`, no path: scikit-learn's handwritten digits. "
            "1,797 real grey images of 8 x 8 pixels in ten classes, from the test set of the UCI collection 'Optical "
            "Recognition of Handwritten Digits'; the first 1,347 are train, the last 450 test.",
        ),
        "drawings": EmbeddedSet(
            "dinobench.data.embedded.drawings:drawings",
            "the word `drawings`, no path: ten kinds of drawn things that differ in outline and surface alone. Place, "
            "size, turn, colours and what lies behind are random, so that pixels tell little. 2,000 train and 500 test "
            "images of 48 x 48 pixels.",
        ),
    },
    "copies": {
        "tiles": EmbeddedSet(
            "dinobench.data.embedded.tiles:copies",
            "the word `tiles`, no path: 24 tiles of scikit-learn's two sample photos. "
            "Each has a strongly edited copy and one at JPEG quality 3.",
        )
    },
    "videos": {
        "shapes": EmbeddedSet(
            "dinobench.data.embedded.shape_videos:videos",
            "the word `shapes`, no path: drawn shapes that move, turn, grow and pass each other, with exact masks. "
            "Four videos of ten frames of 240 x 320 pixels with one to three objects.",
        ),
        "drawings": EmbeddedSet(
            "dinobench.data.embedded.drawing_videos:videos",
            "the word `drawings`, no path: the things of `classification` as they move, turn and pass each other, with "
            "exact masks. Eight videos of ten frames of 96 x 128 pixels with one or two objects.",
        ),
    },
    "masks": {
        "shapes": EmbeddedSet(
            "dinobench.data.embedded.shapes:images",
            "the word `shapes`, no path: drawn discs, squares, triangles, crosses and rings with exact masks. 24 "
            "images with two to four objects, whose classes are the kinds of shape; nothing is random but by a fixed "
            "seed.",
        ),
        "drawings": EmbeddedSet(
            "dinobench.data.embedded.drawings:masks",
            "the word `drawings`, no path: the 500 test images of `classification` with the exact mask of the "
            "thing on each.",
        ),
    },
    "boxes": {
        "shapes": EmbeddedSet(
            "dinobench.data.embedded.shapes:boxes",
            "the word `shapes`, no path: the drawn images of `masks` with the smallest box around each shape. "
            "24 images with two to four objects.",
        ),
        "drawings": EmbeddedSet(
            "dinobench.data.embedded.drawings:boxes",
            "the word `drawings`, no path: the images of `masks` with the smallest box around each thing.",
        ),
    },
    "keypoints": {
        "shapes": EmbeddedSet(
            "dinobench.data.embedded.shape_keypoints:pairs",
            "the word `shapes`, no path: drawn shapes whose corners are known. 60 pairs of images of one of five "
            "kinds, of another size, place, turn and colour, with four or five points each.",
        )
    },
    "navi": {
        "shapes": EmbeddedSet(
            "dinobench.data.embedded.shape_views:views",
            "the word `shapes`, no path: drawn balls with the depth and the camera of every view. Twelve views of each "
            "of three balls, turned by 17 degrees from one to the next.",
        )
    },
    "depth": {
        "shapes": EmbeddedSet(
            "dinobench.data.embedded.shape_depths:scenes",
            "the word `shapes`, no path: drawn shapes at known distances, in haze, on rising ground, with exact depth. "
            "48 train and 24 test images of 256 x 192 pixels.",
        )
    },
    "landmarks": {
        "tiles": EmbeddedSet(
            "dinobench.data.embedded.tiles:places",
            "the word `tiles`, no path: 12 places in scikit-learn's two sample photos. "
            "A query with its box and six views, easy, hard and junk, of each.",
        )
    },
    "label_maps": {
        "shapes": EmbeddedSet(
            "dinobench.data.embedded.shape_scenes:scenes",
            "the word `shapes`, no path: drawn shapes with a class for every pixel. "
            "24 images to learn from and 12 to score on, with two to four shapes; classes are background and the five "
            "kinds of shape.",
        )
    },
}
EMBEDDED[UNLABELLED] = EMBEDDED[ANY_IMAGES] = EMBEDDED["classification"]
