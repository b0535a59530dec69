"""The order of the house, read from the syntax trees: imports point down, and few modules may touch the outside."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
#: Top-level folders and the packages they install as.
FOLDERS = {"dinobench": "dinobench", "protocols": "dinobench.protocols", "pretrain": "dinobench.pretrain"}

#: From top to bottom; a module may import from its own level and from those below it, never in a circle. What is not
#: named here belongs to FLOOR: data, features, engine, records, and the machinery that protocols share.
#: `console` imports nothing of ours, which is why it stands at the bottom though it speaks to people.
LEVELS = (
    ("cli*", "screen*", "__main__"),
    ("runner", "leaderboard", "report*", "compare", "explain", "flips", "bench*", "demo"),
    ("protocols*", "pretrain*"),
    ("FLOOR",),
    ("backbone", "checkpoint", "named", "adapters", "architecture", "canonical", "formats", "metrics*"),
    ("dinobench", "types", "paths", "console", "position", "provenance"),
)
FLOOR = LEVELS.index(("FLOOR",))


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


def level(module: str) -> int:
    short = module.removeprefix("dinobench.")
    return next((i for i, names in enumerate(LEVELS) if any(fnmatchcase(short, n) for n in names)), FLOOR)


def test_imports_point_down():
    upward = [
        f"{module} imports {other}"
        for module, path in modules().items()
        for other in ours(path)
        if level(other) < level(module)
    ]
    assert not upward, "; ".join(upward)


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


def protocols_and_methods() -> list[str]:
    packages = ("dinobench.protocols.", "dinobench.pretrain.")
    return [m for m in modules() if m.startswith(packages)]


def test_protocols_never_import_each_other():
    for module in modules():
        if module.startswith("dinobench.protocols."):
            assert not [o for o in ours(modules()[module]) if o.startswith("dinobench.protocols.")], module


def test_protocols_do_not_print_seed_time_or_write():
    """`ctx` offers progress, device, seed and features; all else would escape the record."""
    forbidden = {"time", "random", "logging", "rich", "tqdm", "dinobench.console", "dinobench.engine",
                 "dinobench.records", "dinobench.features", "dinobench.cache", "dinobench.runner"}  # fmt: skip
    for module in modules():
        if not module.startswith("dinobench.protocols."):
            continue
        path = modules()[module]
        assert not forbidden & set(imports(path)), module
        calls = {ast.unparse(n.func) for n in ast.walk(tree(path)) if isinstance(n, ast.Call)}
        assert not {"print", "open", "torch.manual_seed", "np.random.seed", "np.save", "torch.save"} & calls, module


def test_only_console_imports_rich():
    assert [m for m, p in modules().items() if any(i.split(".")[0] == "rich" for i in imports(p))] == [
        "dinobench.console"
    ]


def test_protocols_and_methods_are_reached_by_entry_point_or_lazily():
    for module, path in modules().items():
        if level(module) < LEVELS.index(("protocols*", "pretrain*")):
            at_import = ours(path, lazy=False)
            assert not [o for o in at_import if o in protocols_and_methods()], module


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


def test_files_are_short():
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in modules().values()}
    assert not [f"{p}: {n} lines" for p, n in lines.items() if n > 400]
