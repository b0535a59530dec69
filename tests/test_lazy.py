"""Deferred imports: nothing before the first use, and then what an import would have given."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
import threading
from typing import Any

import pytest
from helpers.paths import ROOT

from dinobench import lazy

with lazy.imports():
    from fractions import Fraction


NAMES = """
with lazy.imports():
    import colorsys
    import xml.dom.minidom as minidom
    from email.mime import text as mime
"""


def test_names_become_what_they_stand_for():
    there: dict[str, Any] = {"lazy": lazy}
    exec(NAMES, there)
    assert all(type(there[name]) is lazy.Deferred for name in ("colorsys", "minidom", "mime"))
    assert there["colorsys"].rgb_to_hsv(0, 0, 0) == (0.0, 0.0, 0)
    assert there["colorsys"] is sys.modules["colorsys"]
    assert there["minidom"].parseString("<a/>").documentElement.tagName == "a"
    assert there["mime"].MIMEText("x").get_payload() == "x"


def test_classes_can_be_made_inherited_and_asked_for():
    class Half(Fraction):
        pass

    assert isinstance(Half(1, 2), Fraction) and issubclass(Half, Fraction) and Fraction(1, 2) == Half(1, 2)


def test_what_is_not_there_is_said_at_first_use():
    namespace: dict[str, Any] = {"lazy": lazy}
    exec("with lazy.imports():\n    import no_such_module\n    from json import no_such_name", namespace)
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        _ = namespace["no_such_module"].anything
    with pytest.raises(ImportError):
        namespace["no_such_name"]()


def test_other_threads_import_as_always_meanwhile():
    found = []
    with lazy.imports():
        thread = threading.Thread(target=lambda: found.append(__import__("colorsys", {"__name__": "other"})))
        thread.start()
        thread.join()
    assert found == [sys.modules["colorsys"]]


def test_only_modules_classes_and_functions_are_deferred():
    """A constant would be used before it is there, and an exception's class cannot be caught."""
    code = (
        "import sys, importlib; from dinobench.lazy import Deferred\n"
        "for name in sys.argv[1:]: importlib.import_module(name)\n"
        "ours = [m for name, m in list(sys.modules.items()) if name.startswith('dinobench')]\n"
        "print([(m.__name__, n) for m in ours for n, v in list(vars(m).items()) if type(v) is Deferred])"
    )
    protocols = [f"dinobench.protocols.{p.stem}" for p in (ROOT / "protocols").glob("[a-z]*.py")]
    modules = [*protocols, "dinobench.runner", "dinobench.report.page", "dinobench.compare.gate", "dinobench.cli"]
    done = subprocess.run([sys.executable, "-c", code, *modules], capture_output=True, text=True, check=True)
    deferred = eval(done.stdout)
    assert len(deferred) > 40
    for module, name in deferred:
        holder = importlib.import_module(module)
        value = vars(holder)[name]
        value = value._load() if type(value) is lazy.Deferred else value
        assert inspect.ismodule(value) or inspect.isclass(value) or callable(value), (module, name)
        assert not (inspect.isclass(value) and issubclass(value, BaseException)), (module, name)
