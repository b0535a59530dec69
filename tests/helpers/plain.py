"""The released programs written down plainly, sharing nothing with what is tested: one image, one step at a time.

A ViT as facebookresearch/dino has it, DINOv3's linear head for segmentation with its training and its windows, its head
for depth, and TokenCut's foreground. NumPy and loops, float64 but for the ViT's products.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from PIL import Image
from scipy.linalg import eigh
from scipy.special import erf

Arrays = dict[str, np.ndarray]
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def arrays(tensors: Mapping[str, Any]) -> Arrays:
    """Tensors by name as arrays."""
    return {name: np.asarray(tensor) for name, tensor in tensors.items()}


def normalised(image: Image.Image) -> np.ndarray:
    """RGB image -> (3, H, W) float32."""
    return ((np.asarray(image) / 255 - MEAN) / STD).transpose(2, 0, 1).astype(np.float32)


def vit_maps(w: Arrays, x: np.ndarray, heads: int, patch: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Image (3, H, W) of whole patches -> patches after the final norm and the last block's keys, both (D, h, w)."""
    h, wide = x.shape[1] // patch, x.shape[2] // patch
    cells = x.reshape(3, h, patch, wide, patch).transpose(1, 3, 0, 2, 4).reshape(h * wide, -1)
    width = w["cls_token"].shape[-1]
    t = cells @ w["patch_embed.proj.weight"].reshape(width, -1).T + w["patch_embed.proj.bias"]
    t = np.concatenate([w["cls_token"][0], t]) + _positions(w["pos_embed"][0], h, wide)
    depth = 1 + max(int(name.split(".")[1]) for name in w if name.startswith("blocks."))
    for i in range(depth):
        b = {name.removeprefix(f"blocks.{i}."): value for name, value in w.items() if name.startswith(f"blocks.{i}.")}
        qkv = _layer_norm(t, b, "norm1") @ b["attn.qkv.weight"].T + b["attn.qkv.bias"]
        q, k, v = (part.reshape(len(t), heads, -1).transpose(1, 0, 2) for part in np.split(qkv, 3, axis=1))
        keys = qkv[1:, width : 2 * width]
        logits = q @ k.transpose(0, 2, 1) / np.float32(np.sqrt(width / heads))
        weights = np.exp(logits - logits.max(axis=2, keepdims=True))
        seen = (weights @ v / weights.sum(axis=2, keepdims=True)).transpose(1, 0, 2).reshape(len(t), width)
        t = t + seen @ b["attn.proj.weight"].T + b["attn.proj.bias"]
        hidden = _layer_norm(t, b, "norm2") @ b["mlp.fc1.weight"].T + b["mlp.fc1.bias"]
        hidden = (hidden * (1 + erf(hidden / np.sqrt(2))) / 2).astype(np.float32)
        t = t + hidden @ b["mlp.fc2.weight"].T + b["mlp.fc2.bias"]
    maps = (_layer_norm(t, w, "norm")[1:], keys)
    normed, last = (one.T.reshape(width, h, wide) for one in maps)
    return normed, last


def _layer_norm(t: np.ndarray, w: Arrays, name: str) -> np.ndarray:
    centred = t - t.mean(axis=1, keepdims=True)
    scale = np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-6)
    return (centred / scale * w[f"{name}.weight"] + w[f"{name}.bias"]).astype(np.float32)


def _positions(rows: np.ndarray, h: int, w: int) -> np.ndarray:
    """(1 + side * side, D) -> (1 + h * w, D), bicubic at the scale of a target .1 larger; as they are on their grid."""
    side = round(len(rows[1:]) ** 0.5)
    if (h, w) == (side, side):
        return rows
    grid = np.einsum("yr,xc,rcd->yxd", _cubic(side, h), _cubic(side, w), rows[1:].reshape(side, side, -1))
    return np.concatenate([rows[:1], grid.reshape(h * w, -1)]).astype(np.float32)


def _cubic(cells: int, size: int, a: float = -0.75) -> np.ndarray:
    out = np.zeros((size, cells))
    for i in range(size):
        at = (i + 0.5) * cells / (size + 0.1) - 0.5
        for cell in range(int(np.floor(at)) - 1, int(np.floor(at)) + 3):
            d = abs(at - cell)
            near, far = ((a + 2) * d - (a + 3)) * d * d + 1, ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
            out[i, min(max(cell, 0), cells - 1)] += near if d <= 1 else far
    return out


def stretched(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(..., h, w) -> (..., H, W), bilinear between cell centres, edges repeated."""
    return _linear(maps.shape[-2], size[0]) @ maps @ _linear(maps.shape[-1], size[1]).T


def _linear(cells: int, size: int) -> np.ndarray:
    out = np.zeros((size, cells))
    for i in range(size):
        at = max((i + 0.5) * cells / size - 0.5, 0)
        low = min(int(at), cells - 1)
        out[i, low] += 1 - (at - low)
        out[i, min(low + 1, cells - 1)] += at - low
    return out


def head_scores(maps: np.ndarray, head: Arrays) -> np.ndarray:
    """Features (D, h, w) through a batch norm as it scores and a 1 x 1 convolution -> (C, h, w)."""
    column = {name: value.astype(np.float64)[:, None, None] for name, value in head.items() if value.ndim == 1}
    normed = (maps - column["norm.running_mean"]) / np.sqrt(column["norm.running_var"] + 1e-5)
    normed = normed * column["norm.weight"] + column["norm.bias"]
    return np.einsum("cd,dhw->chw", head["conv.weight"][:, :, 0, 0], normed) + column["conv.bias"]


def slid(
    x: np.ndarray, crop: int, stride: int, scores: Callable[[np.ndarray], np.ndarray], size: tuple[int, int]
) -> np.ndarray:
    """Image (3, H, W) -> labels (H', W') at `size`: scores of windows are brought to these, averaged where they meet,
    and the whole is brought to `size`."""
    height, width = x.shape[1:]
    if max(height, width) < crop:
        crop = min(height, width)
    total, seen = np.zeros(0), np.zeros((height, width))
    for i in range(max(height - crop + stride - 1, 0) // stride + 1):
        for j in range(max(width - crop + stride - 1, 0) // stride + 1):
            bottom, right = min(i * stride + crop, height), min(j * stride + crop, width)
            window = slice(max(bottom - crop, 0), bottom), slice(max(right - crop, 0), right)
            own = stretched(scores(x[:, *window]), x[0][window].shape)
            total = total if total.size else np.zeros((len(own), height, width))
            total[:, *window] += own
            seen[window] += 1
    return stretched(total / seen, size).argmax(axis=0)


def trained_head(
    head: Arrays, batches: Iterable[tuple[np.ndarray, np.ndarray]], rate: float, steps: int, warmup: int, decay: float
) -> tuple[Arrays, list[float]]:
    """DINOv3's training of a head without dropout: the head after all steps, and each step's loss.

    Batches are features (B, D, h, w) and labels (B, H, W), 255 for none.
    """
    state = {name: value.astype(np.float64) for name, value in head.items()}
    state["conv.weight"] = state["conv.weight"][:, :, 0, 0]
    learnt = ("norm.weight", "norm.bias", "conv.weight", "conv.bias")
    first, second = ({name: np.zeros_like(state[name]) for name in learnt} for _ in range(2))
    losses = []
    for step, (maps, labels) in enumerate(batches):
        loss, slopes = _loss_and_slopes(state, maps.astype(np.float64), labels)
        losses.append(loss)
        at = max(step - 1, 0)  # the scheduler is not stepped after the first step
        lr = rate * (1 + np.cos(np.pi * (at + 1) / steps)) / 2
        if at < warmup:
            lr = rate * (1 - (1 - at / warmup) * (1 - 1e-6)) * (1 - at / steps)
        for name in learnt:
            first[name] = 0.9 * first[name] + 0.1 * slopes[name]
            second[name] = 0.999 * second[name] + 0.001 * slopes[name] ** 2
            root = np.sqrt(second[name] / (1 - 0.999 ** (step + 1))) + 1e-8
            state[name] = (1 - lr * decay) * state[name] - lr * first[name] / (1 - 0.9 ** (step + 1)) / root
    return state, losses


def _loss_and_slopes(state: Arrays, maps: np.ndarray, labels: np.ndarray) -> tuple[float, Arrays]:
    """Cross-entropy over *all* pixels, and what it changes by; the running mean and variance in `state` move on."""
    mean, var, count = maps.mean(axis=(0, 2, 3)), maps.var(axis=(0, 2, 3)), maps.size // maps.shape[1]
    state["norm.running_mean"] = 0.9 * state["norm.running_mean"] + 0.1 * mean
    state["norm.running_var"] = 0.9 * state["norm.running_var"] + 0.1 * var * count / (count - 1)
    unit = (maps - mean[:, None, None]) / np.sqrt(var + 1e-5)[:, None, None]
    normed = unit * state["norm.weight"][:, None, None] + state["norm.bias"][:, None, None]
    scores = np.einsum("cd,bdhw->bchw", state["conv.weight"], normed) + state["conv.bias"][:, None, None]
    size = labels.shape[1:]
    full = stretched(scores, size)
    shares = np.exp(full - full.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    truth = labels[:, None] == np.arange(full.shape[1])[:, None, None]  # all False where there is no label
    loss = -np.log(shares[truth]).sum() / labels.size
    slope = (shares - truth) * (labels != 255)[:, None] / labels.size
    slope = _linear(scores.shape[2], size[0]).T @ slope @ _linear(scores.shape[3], size[1])
    back = np.einsum("cd,bchw->bdhw", state["conv.weight"], slope)
    return float(loss), {
        "conv.weight": np.einsum("bchw,bdhw->cd", slope, normed), "conv.bias": slope.sum(axis=(0, 2, 3)),
        "norm.weight": (back * unit).sum(axis=(0, 2, 3)), "norm.bias": back.sum(axis=(0, 2, 3)),
    }  # fmt: skip


def semantic_scores(pairs: Iterable[tuple[np.ndarray, np.ndarray]], classes: int) -> dict[str, float]:
    """Predicted and true label maps -> mIoU and aAcc over all images; 255 and classes without pixels do not count."""
    shared, union, right, labelled = np.zeros(classes), np.zeros(classes), 0, 0
    for predicted, truth in pairs:
        known = truth != 255
        right, labelled = right + int((predicted == truth)[known].sum()), labelled + int(known.sum())
        for c in range(classes):
            a, b = (predicted == c) & known, truth == c
            shared[c] += (a & b).sum()
            union[c] += (a | b).sum()
    return {"mIoU": float((shared[union > 0] / union[union > 0]).mean()), "aAcc": right / labelled}


def depth_of(
    maps: tuple[np.ndarray, np.ndarray], head: Arrays, size: tuple[int, int], low: float, high: float
) -> np.ndarray:
    """Features (D, h, w) of an image and of the mirrored one -> depth (H, W) at `size`, as DINOv3's head has it."""
    renamed = {name.replace("batchnorm_layer", "norm").replace("conv_depth", "conv"): a for name, a in head.items()}
    found = []
    for one in maps:
        weights = np.maximum(head_scores(one, renamed), 0) + 0.1
        bins = np.linspace(low, high, len(weights))
        found.append((weights / weights.sum(axis=0) * bins[:, None, None]).sum(axis=0))
    return stretched((found[0] + found[1][:, ::-1]) / 2, size).clip(low, high)


def nyu_scores(truth: np.ndarray, pred: np.ndarray) -> dict[str, float]:
    """Depth (480, 640) in metres -> DINOv3's scores within NYU's crop, of pixels between a millimetre and 10 m."""
    inside = np.zeros(truth.shape, bool)
    inside[45:471, 41:601] = True
    inside &= (truth > 0.001) & (truth < 10)
    g, p = truth[inside], pred[inside]
    return {
        "a1": float((np.maximum(g / p, p / g) < 1.25).mean()), "abs_rel": float((abs(g - p) / g).mean()),
        "rmse": float(np.sqrt(((g - p) ** 2).mean())),
    }  # fmt: skip


def tokencut_foreground(keys: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Keys (D, h, w) -> the foreground (H, W) bool at `size`: whole matrices, a flood from the seed."""
    grid = keys.shape[1:]
    unit = keys.reshape(len(keys), -1).T.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    edges = np.where(unit @ unit.T > 0.2, 1, 1e-5)
    degrees = np.diag(edges.sum(axis=1))
    _, vectors = eigh(degrees - edges, degrees)
    second = vectors[:, 1]
    seed = int(np.argmax(abs(second)))
    side = (second > second.mean()).reshape(grid)
    side = side if side.flat[seed] else ~side
    reached, waiting = np.zeros(grid, bool), [divmod(seed, grid[1])]
    while waiting:
        row, column = waiting.pop()
        if 0 <= row < grid[0] and 0 <= column < grid[1] and side[row, column] and not reached[row, column]:
            reached[row, column] = True
            waiting += [(row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)]
    return np.array([[reached[y * grid[0] // size[0], x * grid[1] // size[1]] for x in range(size[1])]
                     for y in range(size[0])])  # fmt: skip


def saliency(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """Found and annotated foregrounds (H, W) bool -> TokenCut's three scores over all images."""
    ious, rights, curves = [], [], []
    for found, truth in pairs:
        union = (found | truth).sum()
        ious.append((found & truth).sum() / union if union else 1.0)
        rights.append((found == truth).mean())
        curve = []
        for threshold in (0.0, 0.5, 254 / 255):  # of arange(0, 1, 1 / 255); a mask of two values is alike at all
            above = found.astype(float) > threshold
            precision = (above & truth).sum() / above.sum() if above.any() else 1.0
            recall = (above & truth).sum() / truth.sum() if truth.any() else 1.0
            weighed = 0.3 * precision + recall
            curve.append(1.3 * precision * recall / weighed if weighed else 0.0)
        curves.append(curve)
    return {"IoU": float(np.mean(ious)), "accuracy": float(np.mean(rights)), "F_max": float(np.mean(curves, 0).max())}
