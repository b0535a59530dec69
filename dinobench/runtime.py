"""Where a run happens: device, precision, processes and seeds, through Lightning Fabric.

The same command works in one process, with `--devices N`, under torchrun and under SLURM; protocols see only
`share` and `gather`.
"""

from __future__ import annotations

import atexit
import logging
import os
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import torch

from dinobench.distributed import gather_rows
from dinobench.errors import UserError, unknown_name

if TYPE_CHECKING:
    from lightning_fabric import Fabric

T = TypeVar("T")

DEVICES = ("auto", "cpu", "cuda", "mps")
#: Our names for Fabric's precisions. Published numbers are float32, which is why 32 is the default.
PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """The precision, with gradients, for one process without Fabric. Raises UserError for an unknown one."""
    if precision not in PRECISIONS:
        raise unknown_name("precision", precision, PRECISIONS)
    if precision == "32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16 if precision == "bf16" else torch.float16)


@dataclass(frozen=True)
class Runtime:
    """A started Fabric with what the layers above ask of it."""

    fabric: Fabric
    precision: str

    @property
    def device(self) -> torch.device:
        return self.fabric.device

    @property
    def rank(self) -> int:
        return self.fabric.global_rank

    @property
    def processes(self) -> int:
        return self.fabric.world_size

    def barrier(self) -> None:
        if self.processes > 1:
            self.fabric.barrier()

    def broadcast(self, value: T) -> T:
        """The first process's `value`, on every process."""
        return self.fabric.broadcast(value) if self.processes > 1 else value

    def run_on_all(self, work: Callable[[], T]) -> T:
        """`work` on every process; what a UserError on any of them says is raised on all.

        A process that raised alone would leave the others waiting for it at their next meeting.
        """
        if self.processes == 1:
            return work()
        value, error = None, None
        try:
            value = work()
        except UserError as raised:
            error = raised
        errors: list[UserError | None] = [None] * self.processes
        torch.distributed.all_gather_object(errors, error)
        first = next(filter(None, errors), None)
        if first is not None:
            raise first
        return cast(T, value)

    def run_on_first(self, work: Callable[[], T]) -> T | None:
        """`work` on the first process while the others wait: None there. A UserError is raised on all."""
        return self.run_on_all(lambda: work() if self.rank == 0 else None)

    def shard(self, n: int) -> slice:
        """The contiguous part of n items that falls to this process; sizes differ by one at most.

        The parts of processes 0, 1, … follow each other and cover 0..n.
        """
        return slice(n * self.rank // self.processes, n * (self.rank + 1) // self.processes)

    def gather(self, part: torch.Tensor) -> torch.Tensor:
        """Parts of any length along the first dimension -> all of them in the order of ranks, on the CPU."""
        return gather_rows(part.to(self.device)).cpu() if self.processes > 1 else part.cpu()

    def gather_objects(self, value: T) -> list[T]:
        """Every process's `value`, by rank, on all of them; it must pickle."""
        if self.processes == 1:
            return [value]
        values: list[Any] = [None] * self.processes
        torch.distributed.all_gather_object(values, value)
        return values

    def autocast(self) -> AbstractContextManager[None]:
        """The chosen precision, with gradients."""
        return self.fabric.autocast()

    @contextmanager
    def inference(self) -> Iterator[None]:
        """No gradients, and the chosen precision."""
        with torch.inference_mode(), self.fabric.autocast():
            yield


def start(device: str = "auto", devices: int = 1, precision: str = "32") -> Runtime:
    """Choose the hardware and join the other processes, if any.

    `devices` processes are started on this machine; under torchrun or SLURM the launcher has decided and `devices` is
    ignored. Precision "auto" is bf16 where the hardware computes in it, else float32.

    Raises UserError when the device is not there or the name is unknown.
    """
    if device not in DEVICES:
        raise unknown_name("device", device, list(DEVICES))
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: no CUDA device is visible to torch; use --device cpu or install a CUDA build")
    if device == "mps" and not torch.backends.mps.is_available():
        raise UserError("--device mps: this machine has no Apple GPU that torch can use; use --device cpu")
    if precision == "auto":
        precision = "bf16" if _computes_bf16(device) else "32"
    if precision not in PRECISIONS:
        raise unknown_name("precision", precision, ["auto", *PRECISIONS])
    if devices < 1:
        raise UserError(f"--devices {devices}: at least one is needed")
    from lightning_fabric import Fabric  # here, because it takes a second that `--help` should not
    from lightning_fabric.utilities.exceptions import MisconfigurationException

    devices, nodes = _launched(devices)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice on Fabric's own options, which users of dinobench cannot set
        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it announces every process that joins
        try:
            fabric = Fabric(accelerator=device, devices=devices, num_nodes=nodes, precision=PRECISIONS[precision])  # type: ignore[arg-type]
        except (MisconfigurationException, RuntimeError, ValueError) as error:
            raise UserError(f"--device {device} --devices {devices}: {error}") from error
        fabric.launch()
    if fabric.world_size > 1:
        atexit.register(_leave)
    if precision == "32":  # cuDNN would otherwise round convolutions to 10 bits of mantissa
        torch.backends.cudnn.allow_tf32 = False
    return Runtime(fabric, precision)


def _leave() -> None:
    """Leave the process group while the interpreter still stands.

    gloo's threads drop the last references to tensors; one that wants the interpreter's lock for it after the
    interpreter has begun to end takes the whole process down with SIGABRT.
    """
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _launched(devices: int) -> tuple[int, int]:
    """(processes on this node, nodes) as torchrun or SLURM has started them, else (`devices`, 1)."""
    environ = os.environ
    if "LOCAL_WORLD_SIZE" in environ and "RANK" in environ:  # torchrun
        local = int(environ["LOCAL_WORLD_SIZE"])
        return local, int(environ["WORLD_SIZE"]) // local
    if "SLURM_NTASKS" in environ and environ.get("SLURM_JOB_NAME") not in ("bash", "interactive"):  # as Fabric decides
        nodes = int(environ.get("SLURM_NNODES", 1))
        return int(environ.get("SLURM_NTASKS_PER_NODE", int(environ["SLURM_NTASKS"]) // nodes)), nodes
    return devices, 1


def _computes_bf16(device: str) -> bool:
    if device in ("auto", "cuda") and torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # Emulated on a CPU without the instructions, bf16 is several times slower than float32.
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return device == "cpu" and bool(supported and supported())


def seed_everything(seed: int) -> None:
    """Seed Python's, numpy's and torch's global generators, of every device."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
