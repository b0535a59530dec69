"""Imports that happen when they are first used, so that help, listings and refusals do not wait for torch.

`imports` is for what a module uses inside its functions, `attach` for the public names of a folder.
"""

from __future__ import annotations

import builtins
import sys
import threading
from collections.abc import Callable, Mapping
from importlib import import_module
from types import TracebackType
from typing import Any

_patching = threading.Lock()


class Deferred:
    """A module, class or function that is imported when something is asked of it, and then takes its own name's place.

    Only such things: a constant is used without being asked anything, and an exception's class cannot stand after
    `except` before it is there.
    """

    __slots__ = ("_attribute", "_module", "_namespace")
    _attribute: str
    _module: str
    _namespace: dict[str, Any]

    def __init__(self, namespace: dict[str, Any], module: str, attribute: str = "") -> None:
        for name, value in (("_namespace", namespace), ("_module", module), ("_attribute", attribute)):
            object.__setattr__(self, name, value)

    def _load(self) -> Any:
        value = import_module(self._module)
        if self._attribute:
            try:
                value = getattr(value, self._attribute)
            except AttributeError:
                value = import_module(f"{self._module}.{self._attribute}")
        for name in [name for name, held in self._namespace.items() if held is self]:
            self._namespace[name] = value
        return value

    def __getattr__(self, name: str) -> Any:
        return getattr(self._load(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._load(), name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._load(), name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._load()(*args, **kwargs)

    def __getitem__(self, key: Any) -> Any:
        return self._load()[key]

    def __instancecheck__(self, instance: Any) -> bool:
        return isinstance(instance, self._load())

    def __subclasscheck__(self, subclass: type) -> bool:
        return issubclass(subclass, self._load())

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self._load(),)

    def __dir__(self) -> list[str]:
        return dir(self._load())

    def __repr__(self) -> str:
        return f"<{'.'.join(filter(None, (self._module, self._attribute)))}, not imported yet>"


class _From:
    """What stands for a module while names are taken from it: those of `from`, or the `parts` of a dotted name."""

    def __init__(self, namespace: dict[str, Any], module: str, parts: int = 0) -> None:
        self.namespace, self.module, self.parts = namespace, module, parts

    def __getattr__(self, name: str) -> Any:
        if not self.parts:
            return Deferred(self.namespace, self.module, name)
        self.parts -= 1
        return self if self.parts else Deferred(self.namespace, self.module)


class imports:
    """The block's imports, of modules, classes and functions, happen when their names are first used.

    ::

        with lazy.imports():
            import torch
            from dinobench.models.loading import load_backbone

    In this form type checkers, linters and people read them as what they are. A dotted module needs a name of its own
    (`import torch.distributed as dist`).
    """

    def __enter__(self) -> None:
        namespace = sys._getframe(1).f_globals
        _patching.acquire()
        self.real = real = builtins.__import__

        def deferred(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
            if globals is not namespace:  # another thread's
                return real(name, globals, locals, fromlist, level)
            if level:
                raise ImportError(f"{name}: relative imports cannot be deferred")
            if fromlist:
                return _From(namespace, name)
            return _From(namespace, name, name.count(".")) if "." in name else Deferred(namespace, name)

        builtins.__import__ = deferred

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        builtins.__import__ = self.real
        _patching.release()


def attach(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a package (PEP 562) whose public names, the keys of `homes`, live in its modules.

    >>> attach("dinobench", {"UserError": "errors"})("UserError").__name__
    'UserError'
    """

    def getattribute(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{homes[name]}"), name)

    return getattribute
