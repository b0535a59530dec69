"""The order of the house, read from the syntax trees: imports point down, and few modules may touch the outside."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from statistics import median

import pytest
from helpers.paths import ROOT

#: Top-level folders and the packages they install as.
FOLDERS = {"dinobench": "dinobench", "protocols": "dinobench.protocols", "pretrain": "dinobench.pretrain"}

#: The floors of the house from top to bottom. A folder may import from any floor below its own, and on its own floor
#: only from itself.
FLOORS = (
    ("__main__",),
    ("cli",),
    ("bench",),
    ("report", "demo", "suite"),
    ("compare",),
    ("runner",),
    ("evaluations",),
    ("protocols", "pretrain"),
    ("tracking",),
    ("context", "registry"),
    ("dense",),
    ("features", "training", "algorithms", "results"),
    ("models", "data", "metrics", "stats"),
    ("runtime", "config"),
    ("distributed",),
    ("types", "hashing", "files", "console", "signals"),
    ("escaping", "inputs"),
    ("errors",),
    ("dinobench",),
    ("lazy",),
)
#: Numbers in, numbers out: what computes scores knows nothing of where they are used.
PURE = ("algorithms", "metrics", "stats")


@cache
def modules() -> dict[str, Path]:
    """Full module names and their files."""
    found = {}
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join((package, *(parts[:-1] if parts[-1] == "__init__" else parts)))] = path
    return found


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path, lazy: bool = True) -> Iterator[str]:
    """What a file imports, those for type checkers left out, and with `lazy` False those inside functions too."""
    pending: list[ast.AST] = [tree(path)]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            pending += node.orelse
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for a in node.names:
                full = f"{node.module}.{a.name}"
                yield full if full in modules() else str(node.module)
        elif lazy or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            pending += ast.iter_child_nodes(node)


def ours(path: Path, lazy: bool = True) -> set[str]:
    return {name for name in imports(path, lazy) if name in modules()}


def room(module: str) -> str:
    """The folder or, on the ground floor, the file that a module belongs to."""
    return module.split(".")[1] if "." in module else module


def floor(module: str) -> int:
    return next(i for i, rooms in enumerate(FLOORS) if room(module) in rooms)


def test_every_room_has_its_floor():
    assert {room(m) for m in modules()} <= {r for rooms in FLOORS for r in rooms}


def test_imports_point_down():
    upward = [
        f"{module} imports {other}"
        for module, path in modules().items()
        for other in ours(path)
        if room(module) != room(other) and floor(other) <= floor(module) and room(other) != "dinobench"
    ]
    assert not upward, "\n".join(upward)


def test_nothing_is_imported_in_a_circle():
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, " -> ".join((*above[above.index(module) :], module))
        if module in done:
            return
        for other in ours(modules()[module], lazy=False):
            if other != module and not module.startswith(other + "."):  # a package's own __init__ is there before it
                visit(other, (*above, module))
        done.add(module)

    for module in modules():
        visit(module, ())


def test_protocols_never_import_each_other():
    for module, path in modules().items():
        if module.startswith("dinobench.protocols."):
            assert not [o for o in ours(path) if o.startswith("dinobench.protocols.")], module


def test_protocols_do_not_print_seed_time_or_write():
    """`ctx` offers progress, device, precision, seed and features; all else would escape the record."""
    modules_forbidden = {"time", "random", "logging", "rich", "tqdm"}
    rooms_forbidden = {"console", "runtime", "results", "runner"}
    calls_forbidden = {
        "print", "open", "torch.manual_seed", "np.random.seed", "np.save", "torch.save",
        "torch.inference_mode", "torch.no_grad", "torch.autocast",
    }  # fmt: skip
    for module, path in modules().items():
        if not module.startswith("dinobench.protocols."):
            continue
        assert not modules_forbidden & set(imports(path)), module
        assert not rooms_forbidden & {room(o) for o in ours(path)}, module
        calls = {ast.unparse(n.func) for n in ast.walk(tree(path)) if isinstance(n, ast.Call)}
        assert not calls_forbidden & calls, f"{module}: {calls_forbidden & calls}"


def test_what_computes_knows_no_context_no_console_and_no_files():
    for module, path in modules().items():
        if room(module) not in PURE:
            continue
        names = {n.id for n in ast.walk(tree(path)) if isinstance(n, ast.Name)}
        assert "Context" not in names, module
        assert not {"console", "context", "files", "runtime"} & {room(o) for o in ours(path)}, module


def test_only_console_imports_rich():
    assert [m for m, p in modules().items() if any(i.split(".")[0] == "rich" for i in imports(p))] == [
        "dinobench.console"
    ]


def test_protocols_and_methods_are_reached_by_entry_point_or_lazily():
    for module, path in modules().items():
        if room(module) not in ("protocols", "pretrain"):
            at_import = {room(o) for o in ours(path, lazy=False)}
            assert not at_import & {"protocols", "pretrain"}, module


@pytest.mark.parametrize(
    "code",
    [
        "import dinobench",
        "import dinobench.types",
        "import dinobench.registry as r; r.available()",
        "import sys; sys.argv = ['dinobench', '--help']; from dinobench.cli import main; main()",
        "import sys; sys.argv = ['dinobench', 'list', 'layouts']; from dinobench.cli import main; main()",
    ],
)
def test_what_must_be_instant_does_not_import_torch(code):
    check = (
        "import atexit, sys; atexit.register(lambda: print('HEAVY', {'torch', 'timm', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", f"{check}; {code}"], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("HEAVY set()"), done.stdout


def test_files_are_short_and_folders_small():
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in modules().values()}
    assert not [f"{p}: {n} lines" for p, n in lines.items() if n > 400]
    assert median(lines.values()) < 150
    folders: dict[Path, int] = {}
    for path in lines:
        folders[path.parent] = folders.get(path.parent, 0) + 1
    assert not {f: n for f, n in folders.items() if n > 18}  # "about fifteen", the list of what is public beside them


#: Tests of what no single module does.
WIDER = {
    "tests/cli/test_annotations.py", "tests/cli/test_other_tests.py", "tests/cli/test_shown.py",
    "tests/cli/test_start.py", "tests/test_cases.py", "tests/test_docs.py", "tests/test_doctests.py",
    "tests/test_layers.py", "tests/test_packaging.py", "tests/test_shown_commands.py", "tests/test_studies.py",
    "tests/models/test_families_dino_eva.py", "tests/models/test_layouts_table.py", "tests/test_plugin.py",
    "tests/pretrain/test_distributed.py", "tests/report/test_browser.py", "tests/results/test_scale.py",
    "tests/stats/test_coverage.py", "tests/training/test_host_reads.py",
}  # fmt: skip


def test_tests_mirror_the_source():
    """`tests/a/test_b.py` tests `a/b.py`, or the folder `a/b`, so that either leads to the other."""
    tested = {f"tests/{'/'.join(path.parts[:-1])}/test_{path.stem}.py".replace("//", "/") for path in _inside()}
    tested |= {f"tests/{path.parent}/test_{path.parent.name}.py" for path in _inside() if path.name == "__init__.py"}
    files = {p.relative_to(ROOT).as_posix() for p in (ROOT / "tests").rglob("test_*.py")}
    assert not files - tested - WIDER and files >= WIDER


def _inside() -> Iterator[Path]:
    """The sources by where their tests look for them: `dinobench/` itself is the root of tests."""
    for path in modules().values():
        yield path.relative_to(ROOT / "dinobench" if path.is_relative_to(ROOT / "dinobench") else ROOT)


def test_folders_name_what_may_be_used_from_outside():
    listed = {m: path for m, path in modules().items() if path.name == "__init__.py" and "__all__" in path.read_text()}
    assert len(listed) >= 12
    for module in listed:
        package = importlib.import_module(module)
        assert all(getattr(package, name) is not None for name in package.__all__), module
