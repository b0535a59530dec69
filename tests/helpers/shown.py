"""The commands that pages show, made ready to be run here: on embedded data, and small."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from helpers.images import write_images
from helpers.pretraining import make, save
from PIL import Image

from dinobench.pretrain.history import METRICS, append_metrics

#: Pages of docs/ whose commands are run, in their order.
RUN = ("pretraining", "running", "comparing", "gate", "plugins")
#: What is shown there and not run, and why.
NOT_RUN = {
    "pretrain": "no whole command: what torchrun starts, as tests/pretrain/test_distributed.py does, and a mention",
    "--install-completion": "it writes into the files that a shell begins with",
    "run --protocol class_means --ckpt pixels --data digits": "tests/test_plugin.py installs its plug-in and runs it",
}
#: Words for what is not here, and what takes their place.
WORDS = {
    "/data/imagenette": "digits",
    "/data/imagenette112": "digits",
    "imagenette112": "digits",
    "efficientnet_lite0": "ours",
    "efficientnet_lite1": "pixels16",
    "lite0/results": "main/results",
    "lite1/results": "results",
    "timm:vit_small_patch16_224.dino": "pixels:4",
    "knn-random_vit_tiny_patch16_224-imagenette112-0b": "knn-ours-digits",
    "knn-random_vit_tiny_patch16_224-imagenette112-9b": "knn-pixels16-digits",
}
#: What makes a protocol small, and fit for the checkpoints here: one block, patches of 8 pixels.
SMALL = {
    "knn": ("resize=16", "crop=16"),
    "linear": ("resize=16", "crop=16", "blocks=1", "epochs=1", "minimum_steps=0"),
}
#: What makes a training small: options, and settings of DINO.
TRAINING = {"--image-size": "16", "--depth": "1", "--epochs": "1", "--batch": "448", "--device": "cpu"}
TRAINED = ("out_dim=32", "hidden_dim=16", "bottleneck_dim=8", "local_crops=1", "warmup_epochs=0")


def runnable(arguments: tuple[str, ...]) -> list[str]:
    """The command with what is here in the place of what is not, and its own options after those shown."""
    words = [WORDS.get(word, word) for word in arguments]
    if "--track" in words and find_spec("tensorboard") is None:
        at = words.index("--track")
        del words[at : at + 2]
    if words[:2] == ["visualize", "attention"]:
        words = _with(words, {"--size": "32"})
    if words[0] == "pretrain" and "--method" in words:
        words = _with(words, TRAINING, TRAINED)
    if words[0] == "run":
        names = [words[i + 1] for i, word in enumerate(words) if word == "--protocol"]
        words = _with(words, {"--device": "cpu"}, [f"{name}.{setting}" for name in names for setting in SMALL[name]])
    return words


def _with(words: list[str], options: Mapping[str, str], settings: Iterable[str] = ()) -> list[str]:
    """The command with these options in the place of those it has, and these settings after its own."""
    words = list(words)
    for name, value in options.items():
        if name in words:
            words[words.index(name) + 1] = value
        else:
            words += [name, value]
    return words + [part for setting in settings for part in ("--set", setting)]


def prepare(call: Callable[..., tuple[int, str, str]], with_results: bool) -> None:
    """Checkpoints, images, labelled folders and histories of the names that pages use, in the working directory."""
    first = save(Path("x.pth"), *make())
    for name in ("a.pth", "b.pth", "dino.pth", "ours.pth"):
        shutil.copy(first, name)
    for name in ("a", "b"):
        write_images(Path(name), [f"{s}/{c}/{i}.png" for s in ("train", "val") for c in "uv" for i in range(12)])
        append_metrics(Path("runs", name, METRICS), {"epoch": 1, "teacher_entropy": 3.0, "kl": 0.5})
    pixels = np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8)
    Image.fromarray(pixels).save("dog.jpg")
    if with_results:
        models = ("ours=ours.pth", "dino_full=dino.pth", "pixels16=pixels:16")
        asked = ("run", "--protocol", "knn", "--data", "digits", *(w for m in models for w in ("--ckpt", m)))
        code, _, err = call(*runnable(asked))
        assert code == 0, err
        shutil.copytree("results", "main/results")
