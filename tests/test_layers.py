"""Who may import whom (docs/architecture.md), read from the source."""

import ast
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
Graph = dict[str, frozenset[str]]  # what each of our modules imports
MAY_IMPORT = {
    "common": set[str](),
    "shardd": {"common"},
    "coordinator": {"common"},
    "sixfold": {"common"},
    "bench": {"common", "coordinator", "sixfold"},
    "tests": {"common", "shardd", "coordinator", "sixfold"},
}
SHIPPED = ("common", "coordinator", "shardd", "sixfold")
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
PATHS = ("coordinator.read", "coordinator.write")
SERVED = (
    "buffers", "cache", "config", "durability", "handshake", "lanes", "latency", "links",
    "membership", "metadata", "offload", "placement", "remote_store", "ring",
)  # fmt: skip


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def graph_of(sources: Mapping[str, str]) -> Graph:
    """Every module that each of `sources` names in an import, wherever in the text it stands."""
    return {
        module: frozenset(_imported(module, ast.parse(text), sources))
        for module, text in sources.items()
    }


def _imported(module: str, tree: ast.AST, sources: Mapping[str, str]) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _with_packages(alias.name, sources)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{module}: imports say whole names"
            yield from _with_packages(node.module, sources)
            for alias in node.names:
                assert alias.name != "*", f"{module}: imports say what they import"
                if f"{node.module}.{alias.name}" in sources:
                    yield f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func).split(".")[-1]
            assert called not in ("import_module", "__import__", "exec", "eval"), (
                f"{module}: imports are statements"
            )


def _with_packages(name: str, sources: Mapping[str, str]) -> Iterator[str]:
    """`name`, and our packages around it, whose `__init__` runs first."""
    yield name
    while "." in name:
        name = name.rpartition(".")[0]
        if name in sources:
            yield name


SOURCES = {
    name_of(path): path.read_text()
    for folder in MAY_IMPORT
    for path in sorted((ROOT / folder).rglob("*.py"))
}
GRAPH = graph_of(SOURCES)


def inside(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def reached_from(graph: Graph, module: str) -> set[str]:
    """All of our modules that `module` imports, directly or not."""
    reached: set[str] = set()
    waiting = [module]
    while waiting:
        for name in (graph[waiting.pop()] & graph.keys()) - reached:
            reached.add(name)
            waiting.append(name)
    return reached


# The rules: each gives the sentences that say who breaks it


def upward(graph: Graph, folder: str) -> list[str]:
    allowed = {folder} | MAY_IMPORT[folder]
    return [
        f"{module} imports {name}"
        for module in graph
        if inside(module, folder)
        for name in graph[module]
        if name.split(".")[0] in MAY_IMPORT.keys() - allowed
    ]


def past_the_door(graph: Graph, library: str) -> list[str]:
    return [
        f"{module} imports {library}"
        for module in graph
        if inside(module, *SHIPPED) and not inside(module, *DOORS[library])
        if any(inside(name, library) for name in graph[module])
    ]


def impure(graph: Graph) -> list[str]:
    known = sys.stdlib_module_names | CORE_LIBRARIES | {"common"}
    return [
        f"{module} imports {name}"
        for module in graph
        if inside(module, "common")
        for name in graph[module]
        if (name.split(".")[0] in NOT_IN_THE_CORE or name.split(".")[0] not in known)
        and (module, name) != ("common.isal", "pathlib")
    ]


def opening(sources: Mapping[str, str]) -> list[str]:
    return [
        f"{module} opens a file"
        for module, text in sources.items()
        if inside(module, "common")
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Name) and node.id == "open"
    ]


def crossing(graph: Graph, path: str, other: str) -> list[str]:
    """Paths are given as beginnings of names: they are files, not packages."""
    return [
        f"{module} reaches {name}"
        for module in graph
        if module.startswith(path)
        for name in reached_from(graph, module)
        if name.startswith(other)
    ]


def served_by_callers(graph: Graph, *served: str) -> list[str]:
    return [
        f"{module} reaches {name}"
        for module in graph
        if inside(module, *served)
        for name in reached_from(graph, module)
        if name.startswith(PATHS) or inside(name, "coordinator.http", "coordinator.server")
    ]


# The source obeys them


@pytest.mark.parametrize("folder", sorted(MAY_IMPORT))
def test_folders_import_only_downwards(folder: str) -> None:
    assert any(inside(module, folder) for module in GRAPH)
    assert not upward(GRAPH, folder)


@pytest.mark.parametrize("library", sorted(DOORS))
def test_each_library_stays_behind_its_door(library: str) -> None:
    assert not past_the_door(GRAPH, library)


def test_the_core_is_pure() -> None:
    assert not impure(GRAPH)
    assert not opening(SOURCES)


@pytest.mark.parametrize(("path", "other"), [PATHS, PATHS[::-1]])
def test_the_write_path_and_the_read_path_never_import_each_other(path: str, other: str) -> None:
    assert any(module.startswith(path) for module in GRAPH)
    assert not crossing(GRAPH, path, other)


@pytest.mark.parametrize("path", PATHS)
def test_the_paths_do_not_import_http_handlers(path: str) -> None:
    assert not crossing(GRAPH, path, "coordinator.http")


@pytest.mark.parametrize("name", SERVED)
def test_what_serves_the_paths_does_not_import_them(name: str) -> None:
    assert f"coordinator.{name}" in GRAPH
    assert not served_by_callers(GRAPH, f"coordinator.{name}")


# The rules have teeth


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("common.bad", "import shardd.store"),
        ("common.bad", "from coordinator import ring"),
        ("shardd.bad", "from coordinator.ring import Ring"),
        ("coordinator.http.bad", "import common.ids, shardd"),
        ("coordinator.bad", "def late():\n    from sixfold import client"),
        ("sixfold.bad", "try:\n    import coordinator as c\nexcept ImportError:\n    pass"),
        ("sixfold.bad", "if TYPE_CHECKING:\n    from tests.stores import MemoryStore"),
        ("coordinator.bad", "import bench"),
        ("tests.bad", "from bench import load"),
        ("bench.bad", "from tests.local_cluster import local_cluster"),
    ],
)
def test_an_import_upwards_is_found(module: str, text: str) -> None:
    graph = graph_of({module: text})
    assert len(upward(graph, module.split(".")[0])) == 1


def test_what_only_looks_like_one_of_our_folders_is_fine() -> None:
    text = "import commonmark, shardd_tools\nfrom testsuite import coordinator\nimport common.ids"
    assert not upward(graph_of({"shardd.good": text}), "shardd")


@pytest.mark.parametrize(
    ("module", "text", "library"),
    [
        ("coordinator.write_path", "import peewee", "peewee"),
        ("coordinator.metadata_tools", "from peewee import Model", "peewee"),
        ("shardd.index_tools", "from playhouse.sqlite_ext import F", "playhouse"),
        ("common.isal", "from zfec import easyfec", "zfec"),
        ("shardd.direct", "import ctypes.util", "ctypes"),
    ],
)
def test_a_library_past_its_door_is_found(module: str, text: str, library: str) -> None:
    assert past_the_door(graph_of({module: text}), library) == [f"{module} imports {library}"]


def test_a_library_behind_its_door_is_fine() -> None:
    inner = graph_of(
        {"coordinator.metadata.models": "import peewee", "shardd.index": "import peewee"}
    )
    assert not past_the_door(inner, "peewee")


@pytest.mark.parametrize("name", ["os.path", "time", "socket", "subprocess", "threading",
                                  "aiofiles", "pathlib", "requests"])  # fmt: skip
def test_an_impure_core_is_found(name: str) -> None:
    assert impure(graph_of({"common.bad": f"def f():\n    import {name}"}))
    assert impure(graph_of({"common.bad": f"from {name} import x"}))
    assert not impure(graph_of({"shardd.fine": f"import {name}"}))


def test_pathlib_and_ctypes_are_for_isal_alone() -> None:
    text = "import ctypes.util\nfrom pathlib import Path"
    isal, other = graph_of({"common.isal": text}), graph_of({"common.codec": text})
    assert not [*impure(isal), *past_the_door(isal, "ctypes")]
    assert impure(other) and past_the_door(other, "ctypes")


@pytest.mark.parametrize("text", ["open('x')", "with open('x') as f: pass", "o = open"])
def test_a_core_that_opens_a_file_is_found(text: str) -> None:
    assert opening({"common.bad": text}) == ["common.bad opens a file"]


def test_crossing_paths_are_found_however_far_apart() -> None:
    direct = graph_of(
        {"coordinator.write_a": "import coordinator.read_b", "coordinator.read_b": ""}
    )
    assert crossing(direct, *PATHS[::-1]) == ["coordinator.write_a reaches coordinator.read_b"]
    assert not crossing(direct, *PATHS)
    around = {
        "coordinator.write_a": "from coordinator.pack.leaf import x",
        "coordinator.pack": "from coordinator import tools",  # runs before the leaf
        "coordinator.pack.leaf": "",
        "coordinator.tools": "def late():\n    from coordinator import other, reader",
        "coordinator.other": "import coordinator.write_a",  # a circle ends
        "coordinator.reader": "",
    }
    assert crossing(graph_of(around), *PATHS[::-1]) == [
        "coordinator.write_a reaches coordinator.reader"
    ]


def test_what_is_served_and_calls_back_is_found() -> None:
    graph = graph_of({"coordinator.metadata.rows": "from coordinator import write_path",
                      "coordinator.write_path": ""})  # fmt: skip
    assert served_by_callers(graph, "coordinator.metadata")


@pytest.mark.parametrize(
    "text",
    [
        "from . import ring",
        "from ..common import ids",
        "from common.ids import *",
        "importlib.import_module('shardd')",
        "import_module('shardd')",
        "__import__('shardd')",
        "exec('import shardd')",
    ],
)
def test_what_would_hide_an_import_is_refused(text: str) -> None:
    with pytest.raises(AssertionError, match=r"coordinator\.bad: imports"):
        graph_of({"coordinator.bad": text})
