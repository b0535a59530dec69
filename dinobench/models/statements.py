"""What files say of their model besides the tensors: our own header, training arguments, `config.json` beside them.

Everything read here may have been written by anybody: a value of another kind or size than expected is no statement,
and a `config.json` that cannot be read as one is an error, because ignoring it would change numbers.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dinobench.errors import UserError
from dinobench.models.checkpoint import RawCheckpoint
from dinobench.models.formats import find_setting
from dinobench.models.spec import ModelSpec

MAX_CONFIG = 1 << 20  # bytes of a config.json; transformers' longest, with 21,841 labels, take 1 MB
# what transformers, timm and open_clip call the weights in a model's folder
HUB_NAME = re.compile(r"(open_clip_)?(pytorch_)?model([.-][\w.-]+)?\.(safetensors|bin|index\.json)")
MAX_NUMBER = 1 << 20
#: Hugging Face's names (transformers' configurations of vision models) -> ours, with the kind that each must be.
CONFIG_NUMBERS = {
    "num_attention_heads": "heads",
    "layer_norm_eps": "eps",
    "layer_norm_epsilon": "eps",
    "rope_theta": "rope_theta",
    "num_register_tokens": "registers",
    "window_size": "window",
}
WHOLE = frozenset({"heads", "registers", "window"})

#: Whole numbers beside the weights of OpenAI's CLIP (openai/CLIP `model.py`, `build_model`), and of no other.
OPENAI_MARKS = ("input_resolution", "context_length", "vocab_size")
#: open_clip's `timm_pool` ("avg" where it is left out: `CLIPVisionCfg`) -> ours; the empty one is the model's own.
TRUNK_POOLS = {"avg": "mean", "token": "cls", "map": "map"}
#: transformers' defaults of vision configurations by `model_type`: heads, eps, activation; and whose method it is.
CONFIG_USUAL: dict[str, tuple[int, float, str, str | None]] = {
    "clip_vision_model": (12, 1e-5, "quick_gelu", "clip"),
    "siglip_vision_model": (12, 1e-6, "gelu_pytorch_tanh", "siglip"),
    "siglip2_vision_model": (12, 1e-6, "gelu_pytorch_tanh", "siglip2"),
    "vit": (12, 1e-12, "gelu", None),
    "deit": (12, 1e-12, "gelu", None),
    "vit_mae": (12, 1e-12, "gelu", "mae"),
    "vit_msn": (12, 1e-6, "gelu", "msn"),
    "ijepa": (12, 1e-12, "gelu", "ijepa"),
    "dinov2": (12, 1e-6, "gelu", "dinov2"),
    "dinov2_with_registers": (12, 1e-6, "gelu", "dinov2"),
}


def gather(raw: RawCheckpoint, told: Mapping[str, Mapping[str, Any]]) -> ModelSpec:
    """The facts stated, most trusted first: the user's (`told`, by option), our header, the arguments, the folder."""
    spec = ModelSpec(str(raw.path))
    for option, facts in told.items():
        spec.tell(option, **facts)
    if all(mark in raw.tensors or mark in raw.meta for mark in OPENAI_MARKS):
        spec.tell("the file's marks", openai=True)
    refuse_pooled_trunk(raw)
    tell_header(spec, raw.meta)
    tell_input(spec, raw.meta)
    tell_arguments(spec, raw.meta)
    tell_fairseq(spec, raw.meta)
    tell_solo_learn(spec, raw)
    if HUB_NAME.fullmatch(raw.path.name):  # a config.json beside any other file may be anything's
        tell_folder(spec, raw.path.parent)
    return spec


def tell_fairseq(spec: ModelSpec, meta: Mapping[str, Any]) -> None:
    """`cfg`, which fairseq writes: data2vec 2's heads and the epsilon of its norms."""
    model = _inner(meta, "cfg", "model")
    model = _inner(model, "pretrained_model_args", "model") or model  # of a fine-tuned one
    if model.get("_name") == "data2vec_multi":
        heads, eps = _number(model.get("num_heads"), whole=True), _number(model.get("norm_eps"))
        spec.tell("the file's cfg", heads=heads, eps=eps)


def refuse_pooled_trunk(raw: RawCheckpoint) -> None:
    """Raises UserError for open_clip's timm models under an attention pooling of its own (`AbsAttentionPool2d`)."""
    marks = ("visual.head.pool.q.weight", "visual.head.pool.qkv.weight", "visual.head.pool.pos_embed")
    if any(name.endswith(marks) for name in raw.tensors):
        raise UserError(
            f"{raw.path}: is open_clip's of a timm model under an attention pooling of open_clip's own "
            "(visual.head.pool), which is not read here; save the state_dict() of visual.trunk to evaluate the trunk"
        )


def tell_solo_learn(spec: ModelSpec, raw: RawCheckpoint) -> None:
    """vturrisi/solo-learn's ResNets for small images pad by 2; its files have a classifier beside the backbone."""
    lightning = "pytorch-lightning_version" in raw.meta
    if lightning and {"state_dict.backbone.conv1.weight", "state_dict.classifier.weight"} <= raw.tensors.keys():
        spec.tell("solo-learn's marks", stem="cifar_pad2")


def tell_header(spec: ModelSpec, meta: Mapping[str, Any]) -> None:
    """`dinobench.model`, which `dinobench pretrain` writes."""
    own = meta.get("dinobench")
    spec.tell("dinobench's header", ours=True if isinstance(own, Mapping) else None)
    header = own.get("model") if isinstance(own, Mapping) else None
    if isinstance(header, Mapping):
        spec.tell(
            "dinobench's header", arch=_word(header.get("arch")), heads=_number(header.get("heads"), whole=True),
            activation=_word(header.get("activation")), eps=_number(header.get("eps")),
            image_size=_sides(header.get("image_size")), mean=_channels(header.get("mean"), least=-0.001),
            std=_channels(header.get("std")), method=_word(header.get("method")),
        )  # fmt: skip


def tell_input(spec: ModelSpec, meta: Mapping[str, Any]) -> None:
    """`input`, which a fine-tuned model of ours states where its images are not normalised as usual."""
    stated = meta.get("input")
    if isinstance(stated, Mapping):
        spec.tell(
            "the file's input", mean=_channels(stated.get("mean"), least=-0.001), std=_channels(stated.get("std"))
        )


def tell_arguments(spec: ModelSpec, meta: Mapping[str, Any]) -> None:
    """The file's `args`, `config` or `hyper_parameters`, or its top."""
    stated = find_setting(meta, "img_size", "image_size")
    spec.tell(
        "the file's arguments", arch=_word(find_setting(meta, "arch")),
        heads=_number(find_setting(meta, "num_heads", "heads"), whole=True),
        image_size=_sides(stated) if isinstance(stated, list | tuple) else None,
    )  # fmt: skip


def tell_folder(spec: ModelSpec, folder: Path) -> None:
    """`config.json` and `preprocessor_config.json` of Hugging Face, where they lie beside the file.

    Raises UserError for one that is no JSON object.
    """
    config = read_json(folder / "config.json")
    if "architecture" in config or "pretrained_cfg" in config:  # timm's own
        own = config.get("pretrained_cfg")
        own = own if isinstance(own, Mapping) else {}
        spec.tell(
            "config.json (timm)", timm=_word(config.get("architecture")), mean=_channels(own.get("mean"), least=-0.001),
            std=_channels(own.get("std")),
        )  # fmt: skip
    vision = config.get("vision_config")
    vision = {**config, **vision} if isinstance(vision, Mapping) else config
    spec.tell("config.json", model_type=_word(vision.get("model_type")), activation=_word(vision.get("hidden_act")))
    for name, fact in CONFIG_NUMBERS.items():
        spec.tell("config.json", **{fact: _number(vision.get(name), whole=fact in WHOLE)})
    rope = vision.get("rope_parameters")
    if isinstance(rope, Mapping):  # transformers 5
        spec.tell("config.json", rope_theta=_number(rope.get("rope_theta")))
    size = vision.get("image_size")
    spec.tell("config.json", image_size=_sides(size if isinstance(size, list | tuple) else [size, size]))
    usual = CONFIG_USUAL.get(spec.get("model_type") or "")
    if usual:  # what a config.json leaves out is as its class has it
        heads, eps, activation, method = usual
        spec.tell(f"transformers' {spec.get('model_type')}", heads=heads, eps=eps, activation=activation, method=method)
    tell_open_clip(spec, read_json(folder / "open_clip_config.json"))
    windows = vision.get("pretrained_window_sizes")
    if isinstance(windows, list) and all(type(w) is int and 0 <= w < 1000 for w in windows) and any(windows):
        spec.tell("config.json", pretrained_windows=tuple(windows))
    processor = read_json(folder / "preprocessor_config.json")
    if processor.get("do_normalize") is False:
        spec.tell("preprocessor_config.json", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    spec.tell(
        "preprocessor_config.json", mean=_channels(processor.get("image_mean"), least=-0.001),
        std=_channels(processor.get("image_std")),
    )  # fmt: skip


def tell_open_clip(spec: ModelSpec, config: Mapping[str, Any]) -> None:
    """`open_clip_config.json`: the tower's heads and GELU, or the timm model in its place."""
    model, images = config.get("model_cfg"), config.get("preprocess_cfg")
    tower = model.get("vision_cfg") if isinstance(model, Mapping) else None
    if not isinstance(model, Mapping) or not isinstance(tower, Mapping):
        return
    origin = "open_clip_config.json"
    timm_name = _word(tower.get("timm_model_name"))
    width, head_width = _number(tower.get("width", 768), whole=True), _number(tower.get("head_width", 64), whole=True)
    layers = tower.get("layers")
    if timm_name:
        # what projects in two steps has a layer more than timm's model of that name; a ConvNeXt's tensors tell it all
        projected = tower.get("timm_proj") == "mlp" and timm_name.startswith("convnext")
        pool = TRUNK_POOLS.get(_word(tower.get("timm_pool", "avg")) or "")
        spec.tell(origin, timm=None if projected else timm_name, trunk_pool=pool)
    elif isinstance(layers, list):  # a ResNet, whose last map is 32 times as wide as its stem
        spec.tell(origin, heads=int(32 * width // head_width) or None if width and head_width else None)
    elif width and head_width:
        quick = model.get("quick_gelu") is True
        spec.tell(
            origin, heads=int(width // head_width) or None, activation="quick_gelu" if quick else "gelu",
            open_clip_pool=_word(tower.get("pool_type")),
        )  # fmt: skip
    if isinstance(images, Mapping):
        spec.tell(origin, mean=_channels(images.get("mean"), least=-1.0), std=_channels(images.get("std")))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, empty where there is no such file. Raises UserError for anything else."""
    try:
        if not path.is_file():
            return {}
        if path.stat().st_size > MAX_CONFIG:
            raise UserError(f"{path}: is larger than {MAX_CONFIG:,} bytes; a model's {path.name} is a few thousand")
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise UserError(
            f"{path}: is no JSON object, so what it says of the model is not known; copy it again or move it away"
        )
    return content


def _inner(value: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    """What stands under one key after the other, empty where anything on the way is no mapping."""
    for key in keys:
        inner = value.get(key)
        value = inner if isinstance(inner, Mapping) else {}
    return value


def _word(value: Any) -> str | None:
    return value if isinstance(value, str) and value.isprintable() and 0 < len(value) <= 80 else None


def _number(value: Any, whole: bool = False) -> int | float | None:
    """A positive number (also 0 where it need not be whole); None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    if whole:
        return value if isinstance(value, int) and 0 < value <= MAX_NUMBER else None
    return float(value) if 0 <= value <= MAX_NUMBER else None


def _sides(value: Any) -> tuple[int, int] | None:
    """(height, width)."""
    pair = isinstance(value, list | tuple) and len(value) == 2
    return (value[0], value[1]) if pair and all(type(s) is int and 0 < s <= MAX_NUMBER for s in value) else None


def _channels(value: Any, least: float = 0.0) -> tuple[float, float, float] | None:
    """Three numbers, one a channel, above `least`."""
    if not isinstance(value, list | tuple) or len(value) != 3:
        return None
    usable = all(isinstance(v, int | float) and not isinstance(v, bool) and least < v < 1000 for v in value)
    return (float(value[0]), float(value[1]), float(value[2])) if usable else None
