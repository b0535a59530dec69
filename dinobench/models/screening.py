"""What a checkpoint may ask of torch: tensors inside their storages, containers of finite depth, numbers and text.

Each object that the pickle would build, also one that nothing refers to, is held against the few forms in which
torch.save writes it, argument by argument. Whatever else it asks for is refused before torch sees the file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from dinobench.models.inert_pickle import DICTS, Built, Node, Rejected
from dinobench.models.sources.files import DISTRIBUTED

MAX_DEPTH = 64  # of containers in containers; configurations reach about ten
MAX_VALUES = 3_000_000  # as a walk meets them: containers that share their contents multiply
MAX_SHARING = 16  # times that the bytes of the storages may be named by tensors: student, teacher and tied layers share
MIN_SHARING = 1 << 26  # bytes that are nobody's concern however often they are shared

# What may stand in a pickle by name; torch has a list of its own, and knows all of these in the versions we take.
PERMITTED = re.compile(
    r"torch\.\w+|torch\.storage\.\w+Storage|torch\.nn\.parameter\.Parameter|torch\._utils\._rebuild_\w+|"
    r"torch\._tensor\.\w+|torch\.serialization\._get_layout|collections\.(OrderedDict|Counter)|argparse\.Namespace|"
    r"_codecs\.encode|builtins\.(bytearray|set|complex)|numpy\.(dtype|_?core\.multiarray\.scalar)"
)
DTYPES = re.compile(r"torch\.(u?int(8|16|32|64)|float(8_\w+|16|32|64)|bfloat16|bool|complex(64|128))")
STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64,
}
ODD_TENSORS = {
    "torch._utils._rebuild_qtensor": "holds quantised tensors; save them as floats, with dequantize()",
    "torch._utils._rebuild_sparse_tensor": "holds sparse tensors; save them with to_dense()",
    "torch._utils._rebuild_meta_tensor_no_storage": "holds tensors without values (device meta); save the weights",
}
DTYPE_STATES = {(3, order, None, None, None, -1, -1, 0) for order in "<>|="}  # of a plain numpy dtype
DAMAGED = "is truncated or damaged; copy or download it again"


@dataclass(frozen=True)
class Storage:
    """A run of `numel` values that the file holds under `key`."""

    key: str
    dtype: torch.dtype
    numel: int

    @property
    def nbytes(self) -> int:
        return self.numel * self.dtype.itemsize


def screen(built: Built) -> dict[str, Storage]:
    """The storages that a pickle's tensors lie in, by key, once all that it would build is known to be harmless.

    Raises Rejected for anything else, and for tensors that reach beyond their storage or repeat its values.
    """
    if odd := unknown_names(n.name for n in built.nodes if n.kind == "global"):
        raise Rejected(refusal(odd))
    _check_shape(built.nodes)
    screening = _Screening(built.nodes)
    try:
        for node in built.nodes:
            screening.check(node)
    except (ValueError, TypeError, IndexError, AttributeError):  # too few arguments, or of another kind
        _require(False, "an object")
    size = sum(s.nbytes for s in screening.storages.values())
    if screening.named > max(MAX_SHARING * size, MIN_SHARING):
        raise Rejected(
            f"names {screening.named} bytes of tensors in storages of {size} bytes; save each tensor as a clone()"
        )
    return screening.storages


def unknown_names(names: Iterable[str]) -> list[str]:
    """Those that ask for more than tensors and containers, each once."""
    return [n for n in dict.fromkeys(names) if not PERMITTED.fullmatch(n)]


def refusal(names: list[str]) -> str:
    """Why a pickle that asks for `names` is not read, and what to do. Foreign names come out as printable text."""
    shown = ", ".join(n if n.isprintable() and len(n) < 100 else ascii(n)[:100] for n in names[:3])
    if any(n.startswith("torch.distributed.checkpoint.") for n in names):
        return DISTRIBUTED
    return (
        f"refused: its pickle asks for {shown}, and code in a checkpoint is never run; "
        "save tensors only, as torch.save(model.state_dict(), path)"
    )


_TENSOR = "torch._utils._rebuild_tensor"
_PARAMETER = "torch._utils._rebuild_parameter"
FROM_TYPE = "torch._tensor._rebuild_from_type_v2"
PARAMETERS = ("torch.nn.parameter.Parameter", _PARAMETER, f"{_PARAMETER}_with_state")
TENSORS = (_TENSOR, f"{_TENSOR}_v2", f"{_TENSOR}_v3", FROM_TYPE, *PARAMETERS)


def _check_shape(nodes: list[Node]) -> None:
    """Raises Rejected for containers that contain themselves, go too deep, or multiply by sharing their contents."""
    for start in nodes:
        pending = [start]
        while pending:
            node = pending[-1]
            inner = [i for i in (*node.items, node.state) if type(i) is Node] if not node.depth else []
            waiting = [i for i in inner if not i.depth]
            if waiting:
                if node.values == OPEN or any(i.values == OPEN for i in waiting):
                    raise Rejected("has a container that contains itself; save the model's state_dict() alone")
                node.values = OPEN
                pending += waiting
                continue
            if not node.depth:
                node.depth = 1 + max((i.depth for i in inner), default=0)
                node.values = 1 + len(node.items) + sum(i.values for i in inner)
                if node.depth > MAX_DEPTH:
                    raise Rejected(f"nests containers more than {MAX_DEPTH} deep; save the model's state_dict() alone")
                if node.values > MAX_VALUES:
                    raise Rejected("holds millions of values beside tensors; save the model's state_dict() alone")
            pending.pop()


OPEN = -1  # a node's `values` while those inside of it are measured


class _Screening:
    """Checks node by node; `storages` and `named` (bytes of tensors) fill on the way."""

    def __init__(self, nodes: list[Node]) -> None:
        self.nodes = nodes
        self.storages: dict[str, Storage] = {}
        self.named = 0

    def check(self, node: Node) -> None:
        """Raises Rejected unless torch may build it."""
        if node.kind == "storage":
            self.storage(node)
        elif node.kind == "dict":
            _require(all(_is_key(key) for key in node.items[::2]), "a key that is no plain value")
            _require(node.state is None or (node.name in DICTS and _is_state(node.state, dict)), "attributes of a dict")
        elif node.kind in ("call", "new"):
            form = node.name if node.kind == "call" else f"new {node.name}"
            if reason := ODD_TENSORS.get(node.name):
                raise Rejected(reason)
            if node.name in TENSORS:
                self.tensor(node)
            else:
                right = FORMS.get(form)
                _require(right is not None and bool(node.items or form in BARE) and right(*node.items), node.name)
            _require(node.state is None or STATES.get(node.name, _never)(node.state), f"attributes of {node.name}")

    def storage(self, node: Node) -> Storage:
        """A persistent id: ("storage", type, key, location, numel), in legacy files with a view into it (or None)."""
        word, kind, key, location, numel, *view = node.items
        name = getattr(kind, "name", "").rpartition(".")[2]
        if name.startswith(("QInt", "QUInt")):
            raise Rejected(ODD_TENSORS["torch._utils._rebuild_qtensor"])
        dtype = torch.uint8 if name == "UntypedStorage" else STORAGES.get(name)
        _require(word == "storage" and dtype is not None and type(location) is str, "a storage")
        _require(type(key) is str and _are_sizes([numel]) and view in ([], [None]), "a storage")
        assert dtype is not None
        storage = Storage(key, dtype, numel)
        if self.storages.setdefault(key, storage) != storage:
            raise Rejected(f"gives the storage {ascii(key)[:20]} two sizes or kinds; {DAMAGED}")
        return storage

    def tensor(self, node: Node) -> None:
        """A tensor, parameter, or tensor with attributes, by whichever of torch's functions."""
        items = node.items
        if node.name == FROM_TYPE:
            _require(len(items) == 4 and _is_global(items[0], TENSORS) and _is_tuple(items[2]), node.name)
            _require(_is_global(items[1], ("torch.Tensor", PARAMETERS[0])), node.name)
            _require(_is_state(items[3], torch.Tensor), node.name)
            self.tensor(Node("call", items[0].name, items[2].items))
        elif node.name in PARAMETERS:
            data, *rest = items
            _require(isinstance(data, Node) and data.kind in ("call", "new") and data.name in TENSORS, node.name)
            _require(type(next(iter(rest), True)) is bool and len(rest) <= 3, node.name)
            _require(not rest[1:] or _is_empty(rest[1]), node.name)
            _require(len(rest) < 3 or _is_state(rest[2], torch.nn.Parameter), node.name)
        else:
            self.plain_tensor(node, *items)

    def plain_tensor(self, node: Node, storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> None:
        """A view of a storage: inside it, and no value named twice."""
        _require(isinstance(storage, Node) and storage.kind == "storage", "a tensor without a storage")
        _require(_is_tuple(size) and _is_tuple(stride) and len(size.items) == len(stride.items), "a tensor's shape")
        _require(_are_sizes([offset, *size.items, *stride.items]), "a tensor's shape")
        held = self.storage(storage)
        dtype, others = held.dtype, list(rest)
        if node.name.endswith("_v3"):
            name = getattr(others.pop(2), "name", "")
            _require(DTYPES.fullmatch(name) is not None and hasattr(torch, name[6:]), "a tensor's dtype")
            dtype = getattr(torch, name[6:])
        _require(type(next(iter(others), False)) is bool and all(_is_empty(o) for o in others[1:]), "a tensor")
        shape = tuple(size.items)
        values = math.prod(shape)
        last = offset + sum((n - 1) * step for n, step in zip(shape, stride.items, strict=True)) if values else -1
        if last >= held.nbytes // dtype.itemsize:
            raise Rejected(f"{self.name_of(node)} of shape {shape} reaches beyond its storage; {DAMAGED}")
        room = 1  # that the dimensions of smaller strides take
        for step, n in sorted((s, n) for s, n in zip(stride.items, shape, strict=True) if n > 1):
            if values and step < room:
                raise Rejected(f"{self.name_of(node)} of shape {shape} repeats its values; save it as a clone()")
            room = (n - 1) * step + room
        self.named += values * dtype.itemsize

    def name_of(self, node: Node) -> str:
        """A tensor's name in the dict that holds it, for messages."""
        held = (d.items for d in self.nodes if d.kind == "dict")
        names = (k for items in held for k, v in zip(items[::2], items[1::2], strict=True) if v is node)
        return f"the tensor {ascii(next(names, '(in an object)'))[:100]}"


def _require(right: bool, what: str) -> None:
    if not right:
        raise Rejected(f"its pickle has {what} as torch.save does not write it; save the model's state_dict() again")


def _is_key(value: Any) -> bool:
    """Something plain or a tuple of such; huge integers share their hashes, on purpose in a file that wants to hang."""
    values = value.items if _is_tuple(value) else (value,)
    return all(
        abs(v) < 1 << 60 if type(v) is int else type(v) is not Node or v.kind == "global" or _is_bytes(v)
        for v in values
    )


def _is_tuple(value: Any) -> bool:
    return type(value) is Node and value.kind == "tuple"


def _is_empty(value: Any) -> bool:
    """No hooks, no metadata."""
    return value is None or (type(value) is Node and value.kind == "dict" and not value.items and value.state is None)


def _is_global(value: Any, names: Iterable[str]) -> bool:
    return type(value) is Node and value.kind == "global" and value.name in names


def _is_state(value: Any, kind: type) -> bool:
    """Attributes by name, none of which is one that `kind` has already."""
    if value is None:
        return True
    names = value.items[::2] if type(value) is Node and value.kind == "dict" else [None]
    return all(type(n) is str and not hasattr(kind, n) for n in names)


def _are_sizes(values: Iterable[Any]) -> bool:
    return all(type(v) is int and 0 <= v < 1 << 62 for v in values)


def _never(*_: Any) -> bool:
    return False


def _is_text(*items: Any) -> bool:
    return len(items) == 2 and type(items[0]) is str and items[1] in ("latin1", "latin-1")


def _is_bytes(value: Any) -> bool:
    return type(value) is Node and (value.kind, value.name) == ("call", "_codecs.encode") and _is_text(*value.items)


def _is_scalar(*items: Any) -> bool:
    """A NumPy number: one of the fixed widths, and as many bytes. Any other dtype could name foreign memory."""
    if len(items) != 2 or not _is_bytes(items[1]) or getattr(items[0], "name", "") != "numpy.dtype":
        return False
    code = items[0].items[0] if items[0].kind == "call" else ""
    return len(items[1].items[0]) == int(code[1:])


def _is_dtype(*items: Any) -> bool:
    code, *flags = items
    usual = len(flags) == 2 and all(type(flag) in (bool, int) for flag in flags)
    return usual and type(code) is str and re.fullmatch("b1|[iu][1248]|f[248]", code) is not None


def _is_dtype_state(value: Any) -> bool:
    return _is_tuple(value) and not any(type(v) is Node for v in value.items) and tuple(value.items) in DTYPE_STATES


# The arguments of all other calls
FORMS: dict[str, Callable[..., bool]] = {
    "torch.Size": lambda *items: len(items) == 1 and _is_tuple(items[0]) and _are_sizes(items[0].items),
    "torch.device": lambda *items: 0 < len(items) < 3 and type(items[0]) is str and _are_sizes(items[1:]),
    "torch.serialization._get_layout": lambda *items: len(items) == 1 and type(items[0]) is str,
    "_codecs.encode": _is_text,
    "builtins.bytearray": lambda *items: not items or _is_text(*items) or (len(items) == 1 and _is_bytes(items[0])),
    "builtins.set": lambda *items: (
        len(items) == 1 and getattr(items[0], "kind", "") == "list" and all(_is_key(i) for i in items[0].items)
    ),
    "builtins.complex": lambda *items: len(items) == 2 and all(type(i) in (int, float) for i in items),
    "argparse.Namespace": lambda *items: not items,
    "numpy.dtype": _is_dtype,
    "numpy.core.multiarray.scalar": _is_scalar,
    "numpy._core.multiarray.scalar": _is_scalar,
}
BARE = ("builtins.bytearray", "argparse.Namespace", "new argparse.Namespace")  # called without arguments
FORMS |= {f"new {name}": FORMS[name] for name in ("torch.Size", "argparse.Namespace")}
# What BUILD may set
STATES: dict[str, Callable[[Any], bool]] = {
    "argparse.Namespace": lambda state: _is_state(state, type(None)),
    "numpy.dtype": _is_dtype_state,
}
