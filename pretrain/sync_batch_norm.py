"""Batch norm over the images of all processes, on any device."""

from __future__ import annotations

import torch
from torch import nn

from dinobench.distributed import all_reduce, processes


class SyncedBatchNorm(nn.SyncBatchNorm):
    """Batch norm (B, C, ...) over the images of all processes; nn.BatchNorm itself where there is one process.

    torch's own refuses CPU tensors, for which the means and variances are summed here.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or processes() == 1:
            return nn.modules.batchnorm._BatchNorm.forward(self, x)
        if x.device.type == "cuda":
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            return self._over_processes(x if x.dtype == torch.float64 else x.float()).to(x.dtype)

    def _over_processes(self, x: torch.Tensor) -> torch.Tensor:
        dims = [d for d in range(x.ndim) if d != 1]
        shape = [1, -1] + [1] * (x.ndim - 2)
        count = processes() * x.numel() // x.shape[1]
        # Two sums one after the other: the mean of squares less the square of the mean would lose digits.
        mean = all_reduce(x.sum(dims)) / count
        centred = x - mean.view(shape)
        variance = all_reduce(centred.square().sum(dims)) / count
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            self.num_batches_tracked += 1
            step = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean.detach(), step)
            self.running_var.lerp_(variance.detach() * count / max(count - 1, 1), step)
        y = centred * (variance + self.eps).rsqrt().view(shape)
        y = y if self.weight is None else y * self.weight.view(shape)
        return y if self.bias is None else y + self.bias.view(shape)


def sync_batch_norms(module: nn.Module) -> nn.Module:
    """The module with its batch norms synced over processes, same tensors and names; unchanged in one process."""
    if processes() == 1:
        return module
    if type(module) in (nn.BatchNorm1d, nn.BatchNorm2d):
        assert isinstance(module, nn.modules.batchnorm._BatchNorm)
        synced = SyncedBatchNorm(
            module.num_features, module.eps, module.momentum, module.affine, module.track_running_stats
        )
        synced._parameters, synced._buffers, synced.training = module._parameters, module._buffers, module.training
        return synced
    for name, child in module.named_children():
        setattr(module, name, sync_batch_norms(child))
    return module
