"""Where a run happens: device, precision, processes and seeds, through Lightning Fabric.

The same command works in one process, with `--devices N`, under torchrun and under SLURM; protocols see only
`share` and `gather`.
"""

from __future__ import annotations

import atexit
import json
import logging
import math
import os
import platform
import random
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from dinobench import lazy
from dinobench.errors import UserError, unknown_name
from dinobench.files import atomic_path, cache_root
from dinobench.hashing import digest

with lazy.imports():
    import torch

    from dinobench.distributed import gather_rows

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


def check(device: str, devices: int, precision: str | None) -> None:
    """Raises UserError for names and numbers that no machine takes; what this one has is not looked at."""
    if device not in DEVICES:
        raise unknown_name("device", device, list(DEVICES))
    if precision is not None and precision not in ("auto", *PRECISIONS):
        raise unknown_name("precision", precision, ["auto", *PRECISIONS])
    if devices < 1:
        raise UserError(f"--devices {devices}: at least one is needed")


def launched() -> bool:
    """Whether this is one of several processes, or may be: what they do, they must do together."""
    return not os.environ.keys().isdisjoint(("RANK", "LOCAL_RANK", "SLURM_NTASKS"))


def start(device: str = "auto", devices: int = 1, precision: str | None = "32") -> Runtime:
    """Choose the hardware and join the other processes, if any.

    `devices` processes are started on this machine; under torchrun or SLURM the launcher has decided and `devices` is
    ignored. Precision "auto" is what is faster here: bf16 on a GPU that computes in it, on a CPU what `faster_on_cpu`
    has measured, for one process; else float32. None is the same without a measurement, for what was not asked for
    shall not depend on one: float32 on every CPU.

    Raises UserError when the device is not there or the name is unknown.
    """
    check(device, devices, precision)
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: no CUDA device is visible to torch; use --device cpu or install a CUDA build")
    if device == "mps" and not torch.backends.mps.is_available():
        raise UserError("--device mps: this machine has no Apple GPU that torch can use; use --device cpu")
    if precision is None or precision == "auto":
        precision = _usual_precision(device, _launched(devices) == (1, 1) and precision == "auto")
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


def _usual_precision(device: str, measure: bool) -> str:
    if device in ("auto", "cuda") and torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "32"
    if device == "mps" or (device == "auto" and torch.backends.mps.is_available()):
        return "32"
    return faster_on_cpu() if measure else "32"


def faster_on_cpu() -> str:
    """The faster precision of a training step on this CPU: "bf16" or "32", measured once and remembered.

    That a CPU has instructions for bf16 does not say that a step is faster with them: conversions between the products
    may cost more than these save. Without them the answer is known: emulated, bf16 is several times slower.
    """
    if not bf16_on_cpu():
        return "32"
    machine = [platform.node(), platform.machine(), _cpu_model(), torch.__version__, torch.get_num_threads()]
    remembered = cache_root() / "precision" / f"{digest(machine)[:32]}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        if (known := json.loads(remembered.read_text())["faster"]) in ("bf16", "32"):
            return known
    seconds = measure_steps()
    faster = min(seconds, key=lambda name: seconds[name])
    with suppress(OSError), atomic_path(remembered) as temporary:
        temporary.write_text(json.dumps({"faster": faster, "seconds": seconds, "machine": machine}))
    return faster


def bf16_on_cpu() -> bool:
    """Whether this CPU has instructions for bf16."""
    instructions = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, bool)() for name in instructions)


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def measure_steps() -> dict[str, float]:
    """Seconds of a training step of one ViT-tiny block on two images in float32 and bf16, the least of three each."""
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
        block = torch.nn.TransformerEncoderLayer(192, 3, 768, 0.0, "gelu", batch_first=True, norm_first=True)
        tokens = torch.randn(2, 197, 192)
        seconds = {"32": math.inf, "bf16": math.inf}
        for turn in range(4):
            for name in seconds:
                began = time.perf_counter()
                with autocast(torch.device("cpu"), name):
                    loss = block(tokens).sum()
                loss.backward()
                if turn:  # the first one chooses kernels
                    seconds[name] = min(seconds[name], time.perf_counter() - began)
    return seconds


def device_name(device: torch.device) -> str:
    """What a record calls the device: a CUDA card's own name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def seed_everything(seed: int) -> None:
    """Seed Python's, numpy's and torch's global generators, of every device that is there.

    `torch.manual_seed` keeps a call with its stack for each kind of device that is not, should it come: in a process of
    many runs that is felt, and never forgotten.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)


@contextmanager
def one_thread() -> Iterator[None]:
    """torch in one thread, and afterwards in as many as before."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
