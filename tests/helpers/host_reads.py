"""What a GPU would have to be waited for, counted on a CPU."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode

#: Operations whose outcome the host needs: its numbers, or how many there are.
READS = frozenset(
    {
        torch.ops.aten._local_scalar_dense.default,
        torch.ops.aten.is_nonzero.default,
        torch.ops.aten.nonzero.default,
        torch.ops.aten.masked_select.default,
        torch.ops.aten.equal.default,
    }
)

#: What stands on the stack between an operation and a mode that sees it.
DISPATCH = ("/torch/_compile.py", "/torch/_dynamo/", "/torch/utils/_python_dispatch.py")


class HostReads(TorchDispatchMode):
    """A with block's reads of tensors by the host and tensors made of the host's numbers, as lines of our source.

    Reads: `.item()`, `float(tensor)`, `bool(tensor)`, `.tolist()`, `.numpy(force=True)`, masks as indices, and
    `.cpu()` or `.to("cpu")` without non_blocking. Made: `torch.tensor(..., device=)`, a copy that the device waits for.
    Only lines outside of installed packages count, and none of `ignoring` (parts of a path).
    """

    def __init__(self, *ignoring: str) -> None:
        super().__init__()
        self.lines: list[str] = []
        self._ignoring = ignoring
        self._patches: list[Any] = []

    def __len__(self) -> int:
        return len(self.lines)

    def __repr__(self) -> str:
        return "\n".join(self.lines)

    def _note(self, what: str) -> None:
        frames = reversed(traceback.extract_stack())
        last = next(f for f in frames if f.filename != __file__ and not any(part in f.filename for part in DISPATCH))
        # A library's own are of numbers that it keeps on the host, as optimizers' counts of steps are.
        if "/site-packages/" not in last.filename and not any(part in last.filename for part in self._ignoring):
            self.lines.append(f"{last.filename}:{last.lineno}: {what}: {last.line}")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        masks = func is torch.ops.aten.index.Tensor and any(t is not None and t.dtype == torch.bool for t in args[1])
        if func in READS or masks:
            self._note(str(func))
        return func(*args, **(kwargs or {}))

    def __enter__(self) -> HostReads:
        def noting(name: str, real: Callable[..., Any], reads: Callable[..., bool]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                if reads(*args, **kwargs):
                    self._note(name)
                return real(*args, **kwargs)

            return call

        def to_cpu(x: torch.Tensor, *args: Any, non_blocking: bool = False, **_: Any) -> bool:
            # On a CPU, what goes to a device's own CPU is told by how it is spelt.
            return not non_blocking and any(a == "cpu" for a in args if isinstance(a, str))

        for owner, name, reads in (
            (torch.Tensor, "tolist", lambda *a, **k: True),
            (torch.Tensor, "cpu", lambda *a, **k: True),
            (torch.Tensor, "to", to_cpu),
            # Without force it is of tensors that are the host's own: of others it raises.
            (torch.Tensor, "numpy", lambda *a, force=False, **k: force),
            (torch, "tensor", lambda *a, **k: k.get("device") is not None),
        ):
            patch = mock.patch.object(owner, name, noting(name, getattr(owner, name), reads))
            patch.start()
            self._patches.append(patch)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for patch in self._patches:
            patch.stop()
