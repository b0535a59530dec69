"""Depth scores of one image as pure functions, over the pixels that evaluations of monocular depth agree to count.

Definitions: Eigen et al. 2014 (arXiv 1406.2283), section 4.3. Crops: the public evaluations of BTS and AdaBins, kept in
zhyever/Monocular-Depth-Estimation-Toolbox, `depth/datasets/{nyu,kitti}.py`, from which DINOv2's and DINOv3's stem.
"""

from __future__ import annotations

from typing import Literal, get_args

from dinobench import lazy

with lazy.imports():
    import numpy as np


Crop = Literal["none", "nyu", "garg", "eigen"]
CROPS = get_args(Crop)
#: What `depth_scores` gives, in its order.
NAMES = ("rmse", "abs_rel", "delta1", "delta2", "delta3", "log10", "silog")
#: The factor within which delta1 calls a depth right; delta2 and delta3 take its square and cube (1406.2283).
RATIO = 1.25
#: Rows and columns of NYU's frame of 480 x 640 that its usual evaluation looks at: first and one past the last.
NYU_BOX, NYU_SIZE = (45, 471, 41, 601), (480, 640)
#: The same of KITTI as shares of height and width: Garg et al. 2016 (arXiv 1603.04992), Eigen et al. 2014.
SHARES = {
    "garg": (0.40810811, 0.99189189, 0.03594771, 0.96405229),
    "eigen": (0.3324324, 0.91351351, 0.0359477, 0.96405229),
}


def crop_box(height: int, width: int, crop: str) -> tuple[int, int, int, int]:
    """(first row, end row, first column, end column) that a crop leaves of a map.

    NYU's box is scaled to the map's size, as by facebookresearch/dinov3; others know it for 480 x 640 alone. Raises
    ValueError for a name that is none of `CROPS`.

    >>> crop_box(480, 640, "nyu"), crop_box(352, 1216, "garg")
    ((45, 471, 41, 601), (143, 349, 43, 1172))
    """
    if crop == "none":
        return 0, height, 0, width
    if crop == "nyu":
        first, last, left, right = NYU_BOX
        rows, columns = NYU_SIZE
        return (
            int(first / rows * height), int(last / rows * height), int(left / columns * width),
            int(right / columns * width),
        )  # fmt: skip
    if crop not in SHARES:
        raise ValueError(f"crop {crop!r} is none of {', '.join(CROPS)}")
    shares = SHARES[crop]
    return int(shares[0] * height), int(shares[1] * height), int(shares[2] * width), int(shares[3] * width)


def valid_pixels(gt: np.ndarray, low: float, high: float, crop: str) -> np.ndarray:
    """(H, W) bool: where the true depth lies strictly between `low` and `high`, inside the crop."""
    top, bottom, left, right = crop_box(gt.shape[0], gt.shape[1], crop)
    inside = np.zeros(gt.shape, bool)
    inside[top:bottom, left:right] = True
    return inside & (gt > low) & (gt < high)


def depth_scores(gt: np.ndarray, pred: np.ndarray, low: float, high: float, crop: str = "none") -> dict[str, float]:
    """Scores of one image from true and predicted depth (H, W) in one unit, 0 where the truth is unknown.

    Leading axes of length 1, as of a batch of one, are dropped. The prediction is clamped to `low` .. `high` first.
    `rmse` in that unit; `abs_rel`, `log10` and the shares `delta1` to `delta3` as fractions; `silog` times 100. All NaN
    where no pixel is valid. Raises ValueError where the shapes differ or a prediction that counts is not finite.

    >>> scores = depth_scores(np.array([[2.0, 4.0, 0.0]]), np.array([[2.0, 6.0, 1.0]]), 0.001, 10.0)
    >>> {name: round(value, 4) for name, value in scores.items()}["rmse"], scores["delta1"], scores["delta2"]
    (1.4142, 0.5, 1.0)
    """
    gt, pred = (
        x.reshape(x.shape[-2:]) if x.shape[:-2].count(1) == x.ndim - 2 else x for x in map(np.asarray, (gt, pred))
    )
    if gt.ndim != 2 or gt.shape != pred.shape:
        raise ValueError(f"depth of shape {gt.shape} and prediction of {pred.shape}: give two maps (H, W) of one size")
    valid = valid_pixels(gt, low, high, crop)
    if not valid.any():
        return dict.fromkeys(NAMES, float("nan"))
    true = gt[valid].astype(np.float64)
    guess = pred[valid].astype(np.float64).clip(low, high)
    if not np.isfinite(guess).all():
        raise ValueError("the prediction is not finite everywhere")
    ratio = np.maximum(true / guess, guess / true)
    log = np.log(guess) - np.log(true)
    return {
        "rmse": float(np.sqrt(((true - guess) ** 2).mean())),
        "abs_rel": float((np.abs(true - guess) / true).mean()),
        **{f"delta{power}": float((ratio < RATIO**power).mean()) for power in (1, 2, 3)},
        "log10": float(np.abs(log).mean() / np.log(10)),
        # a variance that rounding takes below 0 is 0
        "silog": float(100 * np.sqrt(max((log**2).mean() - log.mean() ** 2, 0.0))),
    }


def aligned(gt: np.ndarray, pred: np.ndarray, low: float, high: float, crop: str = "none") -> np.ndarray:
    """`pred` (H, W) under the scale and shift that bring it closest, in squares, to the truth where that counts.

    For predictions whose unit means nothing (`align_least_squares` of facebookresearch/dinov3, "scale-invariant" in
    mbanani/probe3d). Unchanged where no pixel is valid.

    >>> aligned(np.array([[1.0, 2.0, 3.0]]), np.array([[12.0, 14.0, 16.0]]), 0.001, 10.0).round(6).tolist()
    [[1.0, 2.0, 3.0]]
    """
    valid = valid_pixels(gt, low, high, crop)
    if not valid.any():
        return pred
    guess = pred[valid].astype(np.float64)
    (scale, shift), *_ = np.linalg.lstsq(np.stack([guess, np.ones_like(guess)], axis=1), gt[valid], rcond=None)
    return scale * pred + shift
