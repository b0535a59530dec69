from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dinobench import runtime
from dinobench.errors import UserError
from dinobench.runtime import Runtime, _launched, seed_everything, start


@given(st.integers(0, 1000), st.integers(1, 17))
def test_shares_follow_each_other_cover_all_and_are_even(n, processes):
    runtimes = [Runtime(SimpleNamespace(global_rank=r, world_size=processes), "32") for r in range(processes)]
    parts = [list(range(n))[e.shard(n)] for e in runtimes]
    assert [i for part in parts for i in part] == list(range(n))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_one_process_needs_no_other():
    alone = start("cpu")
    assert (alone.rank, alone.processes, alone.device.type, alone.precision) == (0, 1, "cpu", "32")
    assert alone.shard(7) == slice(0, 7) and alone.broadcast({"a": 1}) == {"a": 1}
    assert torch.equal(alone.gather(torch.arange(3)), torch.arange(3))
    assert alone.run_on_first(lambda: 5) == alone.run_on_all(lambda: 5) == 5
    alone.barrier()
    with alone.inference():
        assert torch.is_inference_mode_enabled()

    def fails():
        raise UserError("no")

    with pytest.raises(UserError, match=r"^no$"):
        alone.run_on_all(fails)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("gpu",), "unknown device 'gpu'"),
        (("cpu", 0), "--devices 0: at least one"),
        (("cpu", 1, "fp16"), "unknown precision 'fp16'.*available: auto, 32, bf16, 16"),
        pytest.param(("cuda",), "no CUDA device", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA")),
        pytest.param(
            ("mps",), "no Apple GPU", marks=pytest.mark.skipif(torch.backends.mps.is_available(), reason="Apple")
        ),
    ],
)
def test_what_cannot_be_started_is_one_clear_line(arguments, words):
    with pytest.raises(UserError, match=words):
        start(*arguments)


@pytest.fixture
def with_bf16(monkeypatch, tmp_path):
    """A CPU with instructions for bf16, on which a step takes as long as `seconds` say; -> (seconds, measurements)."""
    monkeypatch.setenv("DINOBENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    seconds, measured = {"32": 1.0, "bf16": 2.0}, []
    monkeypatch.setattr(runtime, "measure_steps", lambda: measured.append(1) or seconds)
    return seconds, measured


def test_automatic_precision_on_a_cpu_is_what_is_faster_as_measured_once(with_bf16, tmp_path):
    seconds, measured = with_bf16
    assert [start(device, precision="auto").precision for device in ("cpu", "auto")] == ["32", "32"]
    assert len(measured) == 1
    (remembered,) = (tmp_path / "precision").iterdir()
    seconds["bf16"] = 0.5
    for damage in (b"", b"[]", b'{"faster": "16"}', b"\xff"):
        remembered.write_bytes(damage)
        assert start("cpu", precision="auto").precision == "bf16"
    assert len(measured) == 5


def test_nothing_is_measured_where_it_could_differ_or_nobody_asked(with_bf16, monkeypatch):
    """Processes that decide on their own could disagree, and a number that nobody asked for would depend on noise."""
    seconds, measured = with_bf16
    seconds["bf16"] = 0.5
    assert start("cpu", precision=None).precision == start("cpu").precision == "32"
    assert runtime._usual_precision("cpu", False) == "32"
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    assert start("cpu", precision="auto").precision == "32" and not measured


def test_a_cache_that_cannot_be_written_costs_a_measurement_only(with_bf16, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("DINOBENCH_CACHE", str(tmp_path / "file"))
    assert [start("cpu", precision="auto").precision for _ in range(2)] == ["32", "32"] and len(with_bf16[1]) == 2


def test_measuring_leaves_the_generators_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    with torch.inference_mode():
        assert set(runtime.measure_steps()) == {"32", "bf16"}
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, (3, 1)),
        ({"RANK": "5", "LOCAL_WORLD_SIZE": "4", "WORLD_SIZE": "8"}, (4, 2)),
        ({"SLURM_NTASKS": "8", "SLURM_NNODES": "2", "SLURM_NTASKS_PER_NODE": "4"}, (4, 2)),
        ({"SLURM_NTASKS": "1"}, (1, 1)),
        ({"SLURM_NTASKS": "8", "SLURM_JOB_NAME": "interactive"}, (3, 1)),
    ],
)
def test_the_launcher_decides_the_number_of_processes(monkeypatch, environ, expected):
    for name in ("RANK", "LOCAL_WORLD_SIZE", "WORLD_SIZE", "SLURM_NTASKS", "SLURM_NNODES", "SLURM_JOB_NAME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert _launched(3) == expected


def test_seeds_reach_every_global_generator():
    def draws():
        return random.random(), np.random.rand(), torch.rand(1).item()

    seed_everything(2**40 + 3)
    first = draws()
    assert draws() != first
    seed_everything(2**40 + 3)
    assert draws() == first


def test_seeds_are_those_of_torch_and_leave_nothing_behind_for_devices_that_are_not_there():
    torch.manual_seed(7)
    expected, waiting = torch.rand(3), len(torch.cuda._queued_calls)
    seed_everything(7)
    assert torch.equal(torch.rand(3), expected)
    assert torch.cuda.is_available() or len(torch.cuda._queued_calls) == waiting


def test_published_numbers_are_float32():
    assert runtime.PRECISIONS["32"] == "32-true"
    start("cpu")
    assert torch.get_float32_matmul_precision() == "highest" and not torch.backends.cudnn.allow_tf32
