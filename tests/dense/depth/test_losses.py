import numpy as np
import pytest
import torch
from helpers.golden import golden_values

from dinobench.dense.depth.losses import DepthLoss, gradient_log_loss, l1_loss, sig_loss

VALUES = golden_values("depth")["loss"][0]


def drawn(batch=VALUES["batch"], size=tuple(VALUES["size"]), seed=VALUES["seed"]):
    """Prediction and truth by the rule of the golden values."""
    r = np.random.default_rng(seed)
    g = 0.5 + 11 * r.random((batch, 1, *size))
    p = g * np.exp(0.25 * r.standard_normal(g.shape)) + 0.05
    g = np.where(r.random(g.shape) < VALUES["zeros"], 0, g)
    return torch.from_numpy(p.astype(np.float32)), torch.from_numpy(g.astype(np.float32))


def test_losses_are_those_of_the_releases():
    pred, gt = drawn()
    values = {
        "sigloss_first_100_steps (no variance term)": sig_loss(pred, gt, variance=False),
        "sigloss_after_warm_up": sig_loss(pred, gt),
        "dinov2_sigloss_no_warm_up": sig_loss(pred, gt),
        "dinov2_sigloss_max_depth_10": sig_loss(pred, torch.where(gt <= 10, gt, 0)),
        "dinov3_gradient_log_loss": gradient_log_loss(pred, gt),
        "dinov2_gradient_loss_as_released (acts on batch and channel axes)": gradient_log_loss(pred, gt, "batch"),
        "dinov2_gradient_loss_on_one_HxW_map": gradient_log_loss(pred[0, 0], gt[0, 0]),
        "dinov3_l1": l1_loss(pred, gt),
    }
    for name, value in values.items():
        assert float(value) == pytest.approx(VALUES[name], rel=1e-5), name


def test_the_batch_is_taken_in_groups_and_the_variance_comes_later():
    pred, gt = drawn(batch=6)
    loss = DepthLoss(gradient=0.5, gradient_axes="batch", without_variance=3)
    in_pairs = [sig_loss(pred[i : i + 2], gt[i : i + 2], variance=False) for i in (0, 2, 4)]
    # DINOv2's gradient loss is nothing on the two images of a GPU
    assert float(loss(pred, gt, 2)) == pytest.approx(float(sum(in_pairs) / 3))
    whole = DepthLoss(sig=2.0, gradient=0.5, l1=0.1, group=6, without_variance=3)
    expected = 2 * sig_loss(pred, gt) + 0.5 * gradient_log_loss(pred, gt) + 0.1 * l1_loss(pred, gt)
    assert float(whole(pred, gt, 3)) == pytest.approx(float(expected))


def test_plain_second_implementation_of_the_gradient_loss():
    pred, gt = drawn(batch=1, size=(9, 11))
    p, g = pred[0, 0].double().numpy(), gt[0, 0].double().numpy()
    total = 0.0
    for step in (1, 2, 4, 6):
        ps, gs = p[::step, ::step], g[::step, ::step]
        d, known = np.log(ps + 1e-3) - np.log(gs + 1e-3), gs > 0
        rows, columns = gs.shape
        pairs = [((i, j), (i + 2, j)) for i in range(rows - 2) for j in range(columns)]
        pairs += [((i, j), (i, j + 2)) for i in range(rows) for j in range(columns - 2)]
        total += sum(abs(d[a] - d[b]) for a, b in pairs if known[a] and known[b]) / known.sum()
    assert float(gradient_log_loss(pred, gt)) == pytest.approx(total, rel=1e-5)


def test_images_without_a_known_pixel_move_nothing():
    pred, gt = drawn(batch=2)
    pred.requires_grad_(True)
    loss = DepthLoss(gradient=0.5, l1=1.0, without_variance=0)(pred, torch.zeros_like(gt), 0)
    loss.backward()
    assert loss.item() == 0 and pred.grad.abs().sum() == 0
    exact = torch.full((1, 1, 4, 4), 3.0, requires_grad=True)
    sig_loss(exact, torch.full((1, 1, 4, 4), 3.0)).backward()
    assert exact.grad.isfinite().all()
