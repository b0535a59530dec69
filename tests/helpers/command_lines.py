"""Random command lines from a seed: real commands and options with odd values, none that trains or measures."""

from __future__ import annotations

import random

ODD = (
    "", "  ", "x" * 5000, "-1", "nan", "inf", "-inf", "0", "1", "2", "0.5", "1e400", "9" * 400, "é✓",
    "\u202e",
    "nowhere", "empty", "file.txt", "empty.json", "pipe", "results", "zero", "~nouser", "../x",
    "a=b", "=", "::error::x", "\x1b[2J", "%s", "{x}", "*", "[", "digits", "knn", "none", "true", "--", "-", "a/b/c",
    ".", "..", "timm:", "random:", "timm:nothing", "pixels:8", "pixels:0", "name=pixels:8", "pixels", "cpu", "16",
    "32", "bf16",
    "model", "knn,linear", "results/runs/knn-sound-digits.json", "pic", "pic/0.jpg", "data.csv", "\n", "\t",
    '"', "--help",
    "o.md", "o.png", "out", "sound", "other",
)  # fmt: skip
#: Commands, how many arguments they take, and their options; those in capitals are switches.
COMMANDS: dict[str, tuple[int, str]] = {
    "run": (
        0, "ckpt protocol data profile set out arch key heads device precision seed batch-size workers ram-cache save "
        "JSON FORCE ALLOW-PARTIAL SKIP-BROKEN NO-CACHE",
    ),
    "compare": (1, "pair format rows columns metric protocol data INTERVALS PM reference output"),
    "gate": (1, "baseline margin alpha ALLOW-MISSING"), "report": (1, "output title pictures-mb"),
    "explain": (2, "results JSON minutes"), "inspect": (1, "arch key heads JSON"), "list": (1, ""),
    "leaderboard": (1, ""), "cache ls": (0, ""), "cache prune": (0, "days"), "data make-copies": (2, "seed"),
    "score davis": (1, "data output JSON"), "visualize attention": (1, "ckpt output device arch key set"),
    "visualize collapse": (1, "output"), "visualize propagation": (1, "ckpt data output set"), "nothing": (0, ""),
    "": (0, "VERSION HELP DEBUG"),
}  # fmt: skip


def command_line(rng: random.Random) -> list[str]:
    command = rng.choice(list(COMMANDS))
    takes, options = COMMANDS[command]
    line = command.split()
    if command == "run":
        line += ["--ckpt", rng.choice(["pixels:8"] * 8 + [rng.choice(ODD)]), "--set", "k=1"]
        line += ["--protocol", rng.choice(["knn"] * 8 + ["nothing", "", "::x"])]
    if rng.random() < 0.05:
        line.append("--no-such-option")
    line += [rng.choice(["results", "results", "knn-sound-digits", rng.choice(ODD)]) for _ in range(takes)]
    if rng.random() < 0.05:
        line.append(rng.choice(ODD))
    for name in rng.sample(options.split(), min(len(options.split()), rng.choice((0, 1, 1, 2, 3)))):
        line.append(f"--{name.lower()}")
        if not name.isupper():
            line += [rng.choice(ODD) for _ in range(2 if name == "pair" else 1)]
    return line
