"""Who may import whom (docs/architecture.md), read from the source."""

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {
    "common": set[str](),
    "shardd": {"common"},
    "coordinator": {"common"},
    "sixfold": {"common"},
}
OURS = {*MAY_IMPORT, "tests", "bench"}
# What only some modules may import: each library stays behind one door.
DOORS = {
    "zfec": {"common.codec"},
    "pyeclib": set[str](),
    "ctypes": {"common.isal"},
    "peewee": {"coordinator.metadata", "shardd.index"},
    "playhouse": {"coordinator.metadata", "shardd.index"},
    "typer": {"sixfold"},
    "rich": {"sixfold"},
    "locust": {"bench"},
}
# The core is pure: all that it may import from outside.
CORE_LIBRARIES = {"blake3", "zfec"}
NOT_IN_THE_CORE = {
    "aiofiles", "aiohttp", "datetime", "fcntl", "glob", "http", "io", "logging", "mmap",
    "multiprocessing", "os", "pathlib", "random", "resource", "secrets", "select", "selectors",
    "shutil", "signal", "socket", "socketserver", "sqlite3", "ssl", "subprocess", "sys",
    "tempfile", "threading", "time", "urllib", "uuid", "uvloop",
}  # fmt: skip
# Within the coordinator: who serves may call who is served, never the other way.
PATHS = ("coordinator.read_", "coordinator.write_")
SERVED = (
    "buffers", "cache", "config", "durability", "handshake", "lanes", "latency", "links",
    "membership", "metadata", "offload", "placement", "remote_store", "ring",
)  # fmt: skip


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {name_of(path): path for folder in sorted(OURS) for path in (ROOT / folder).rglob("*.py")}


@cache
def imports(module: str) -> frozenset[str]:
    """Every module that `module` names in an import, wherever in the source it stands."""
    return frozenset(_imported(module, ast.parse(SOURCES[module].read_text())))


def _imported(module: str, tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{module}: imports say whole names"
            named = [f"{node.module}.{alias.name}" for alias in node.names]
            submodules = [name for name in named if name in SOURCES]
            yield from submodules or [node.module]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            raise AssertionError(f"{module}: imports are statements")


def inside(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def modules_of(*packages: str) -> list[str]:
    return [module for module in sorted(SOURCES) if inside(module, *packages)]


def reached_from(module: str) -> set[str]:
    """All of our modules that `module` imports, directly or not."""
    reached: set[str] = set()
    waiting = [module]
    while waiting:
        for name in imports(waiting.pop()) & SOURCES.keys() - reached:
            reached.add(name)
            waiting.append(name)
    return reached


def test_there_is_source_in_every_folder() -> None:
    for folder in OURS:
        assert modules_of(folder), folder


@pytest.mark.parametrize("folder", sorted(MAY_IMPORT))
def test_folders_import_only_downwards(folder: str) -> None:
    allowed = {folder} | MAY_IMPORT[folder]
    wrong = [
        f"{module} imports {name}"
        for module in modules_of(folder)
        for name in imports(module)
        if name.split(".")[0] in OURS - allowed
    ]
    assert not wrong


@pytest.mark.parametrize("library", sorted(DOORS))
def test_each_library_stays_behind_its_door(library: str) -> None:
    wrong = [
        module
        for module in modules_of(*MAY_IMPORT)
        if not inside(module, *DOORS[library])
        and any(inside(name, library) for name in imports(module))
    ]
    assert not wrong


def test_the_core_does_no_io() -> None:
    wrong = [
        f"{module} imports {name}"
        for module in modules_of("common")
        for name in imports(module)
        if name.split(".")[0] in NOT_IN_THE_CORE and (module, name) != ("common.isal", "pathlib")
    ]
    assert not wrong


def test_the_core_stands_on_the_standard_library() -> None:
    known = sys.stdlib_module_names | CORE_LIBRARIES | {"common"}
    for module in modules_of("common"):
        assert {name.split(".")[0] for name in imports(module)} <= known, module


def test_the_core_opens_no_files() -> None:
    for module in modules_of("common"):
        calls = [node for node in ast.walk(ast.parse(SOURCES[module].read_text()))
                 if isinstance(node, ast.Call)]  # fmt: skip
        assert "open" not in {ast.unparse(call.func) for call in calls}, module


@pytest.mark.parametrize(("path", "other"), [PATHS, PATHS[::-1]])
def test_the_write_path_and_the_read_path_never_import_each_other(path: str, other: str) -> None:
    modules = [module for module in SOURCES if module.startswith(path)]
    assert modules
    for module in modules:
        assert not [name for name in reached_from(module) if name.startswith(other)], module


def test_the_paths_do_not_import_http_handlers() -> None:
    for module in modules_of("coordinator"):
        if module.startswith(PATHS):
            assert not [name for name in reached_from(module) if inside(name, "coordinator.http")]


def test_what_serves_the_paths_does_not_import_them() -> None:
    for module in modules_of(*(f"coordinator.{name}" for name in SERVED)):
        wrong = [
            name
            for name in reached_from(module)
            if name.startswith(PATHS) or inside(name, "coordinator.http", "coordinator.server")
        ]
        assert not wrong, module


def test_wildcards_are_not_imported() -> None:
    for module, path in SOURCES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert "*" not in {alias.name for alias in node.names}, module
