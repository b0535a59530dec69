"""What a suite costs beside its evaluations: the files, the processes, the leaderboard and the looking after them."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from dinobench import runtime
from dinobench.bench.measure import BenchRow

#: Of the bare loop's time, what a suite may take besides.
BAR = 0.10
#: The evaluations that the bar is set for, and those that do beside an accelerator, where other benches matter more.
CELLS, FEWER = 1000, 300
#: The evaluations: pixels of digits by k-NN, in as many runs as there are seeds.
FILE = """\
[models]
pixels8 = "pixels:8"
[[run]]
protocol = "knn"
data = "digits"
set = {{ resize = 8, crop = 8, k = 20 }}
seeds = {seeds}
"""
#: The bare loop: what it evaluates is made once, and each evaluation's record is written.
LOOP = """\
import sys
from pathlib import Path
from dinobench import registry, runner, runtime
from dinobench.config import resolve_config
from dinobench.context import RunContext
from dinobench.data import load_dataset
from dinobench.evaluations import Evaluation
from dinobench.features.service import FeatureService
from dinobench.files import cache_root
from dinobench.models.loading import load_backbone

out, device, cells = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
protocol = registry.load("knn")
resolved = resolve_config(protocol, None, {"resize": 8, "crop": 8, "k": 20})
started, root = runtime.start(device), cache_root() / "features"
service, data = FeatureService(started, root), load_dataset("digits")
backbone = load_backbone("pixels:8", name="pixels8")
for seed in range(cells):
    evaluation = Evaluation(protocol, resolved, data, backbone, seed, "32")
    scored = runner.score(evaluation, RunContext(started, service, seed, root))
    runner.write(out, *scored)
"""


def suite(cells: int | None = None, device: str = "auto", repeats: int = 1) -> list[BenchRow]:
    """Seconds of wall clock of `dinobench suite run` and of the bare loop over the same evaluations in one process.

    Both are commands of their own that import what they need, and both find features and weights in the cache. The
    fewer cells there are, the more the start of a second process counts.
    """
    if cells is None:
        cells = CELLS if runtime.start(device).device.type == "cpu" else FEWER
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "bench.toml").write_text(FILE.format(seeds=list(range(cells))))
        (folder / "warm.toml").write_text(FILE.format(seeds=[0]))
        run = [sys.executable, "-m", "dinobench", "suite", "run"]
        _seconds([*run, "warm.toml", "--out", "warm", "--device", device, "--processes", "1"], folder)
        taken: list[list[float]] = [[], []]
        for i in range(repeats):
            taken[0].append(_seconds([sys.executable, "-c", LOOP, f"bare{i}", device, str(cells)], folder))
            ours = [*run, "bench.toml", "--out", f"suite{i}", "--device", device, "--processes", "1"]
            taken[1].append(_seconds(ours, folder))
        written = [len([*(folder / name / "runs").glob("*.json")]) for name in ("bare0", "suite0")]
    assert written == [cells, cells], written
    bare, ours_seconds = map(min, taken)
    over = ours_seconds / bare - 1
    return [
        BenchRow(
            f"suite of {cells:,} cells", f"{ours_seconds:.1f} s, {1000 * ours_seconds / cells:.0f} ms each",
            f"{bare:.1f} s, the bare loop", over + 1, f"at most {1 + BAR:g}", over <= BAR,
        )
    ]  # fmt: skip


def _seconds(line: list[str], folder: Path) -> float:
    began = time.perf_counter()
    subprocess.run(line, cwd=folder, check=True, capture_output=True, text=True)
    return time.perf_counter() - began
