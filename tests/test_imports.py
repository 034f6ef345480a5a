"""The house: who may import whom, who owns which dependency, who reads the environment, and how large a module is.

The rules are read off the sources: an import within a function counts like any other, and so does one that only the
type checker sees, because a type from a higher layer is knowledge of it. The one exception is the package's own
``__init__``, which names everything and imports nothing until it is asked.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import pytest

import lading

SOURCES = Path(lading.__file__).parent

# From the bottom. A room may import any lower layer, and itself.
LAYERS: tuple[frozenset[str], ...] = (
    frozenset({"errors", "events", "redact"}),
    frozenset({"oci"}),
    frozenset({"agents"}),
    frozenset({"store"}),
    frozenset({"http"}),
    frozenset({"auth"}),
    frozenset({"registry"}),
    frozenset({"flight"}),
    frozenset({"pull", "push"}),
    frozenset({"arguments", "client", "diagnose", "home", "network", "rooms", "telemetry", "trace"}),
    frozenset({"cli", "testing"}),
)
BESIDE = {("errors", "redact"), ("client", "rooms"), ("rooms", "network"), ("client", "arguments"), ("client", "home")}
STRANGERS = {("http", "store"), ("auth", "store"), ("registry", "store")}
"""Lower, and yet not to be known: what a registry said and what is kept meet in ``pull``, ``push`` and ``client``."""

FACADE = "lading"
TESTING = "lading.testing"
TESTING_KNOWS = {"lading.oci.digest"}
"""The embedded registry must not share lading's parsers: shared bugs would cancel out."""
PLUGIN = "lading.testing.plugin"
PLUGIN_KNOWS = {"lading.client", "lading.auth.credentials"}
"""Its fixture hands out a client, which it imports when it is asked for one."""
TESTING_IS_KNOWN_TO = {"lading.cli.serve", "lading.cli.demo"}

OWNERS = {
    "aiohttp": ("lading.http.*", "lading.testing.*"),
    "multidict": ("lading.http.*", "lading.testing.*"),
    "yarl": ("lading.http.*", "lading.testing.*"),
    "sqlite3": ("lading.store.index*",),
    "yaml": ("lading.agents.document",),
    "opentelemetry": ("lading.telemetry",),
    "zstandard": ("lading.agents.artifact",),
    "trustme": ("lading.testing.tls",),
    "pytest": ("lading.testing.plugin",),
    "click": ("lading.cli", "lading.cli.*"),
    "rich": ("lading.cli", "lading.cli.*"),
}

ENVIRONMENT = {
    "lading.home",
    "lading.auth.credentials",
    "lading.auth.helpers",
    "lading.http.proxy",
    "lading.push.agent",
    "lading.cli",
    "lading.cli.*",
}

POSIX_ONLY = {"fcntl", "grp", "pwd", "resource", "termios", "tty"}

LINES = 400


class Import(NamedTuple):
    """One name that a module imports: ``lading.oci.digest.Digest``, ``aiohttp``."""

    target: str
    line: int
    is_lazy: bool


def modules() -> dict[str, Path]:
    """Give every module of the package, with its dotted name."""
    found = {}
    for path in sorted(SOURCES.rglob("*.py")):
        parts = ("lading", *path.relative_to(SOURCES).with_suffix("").parts)
        found[".".join(parts).removesuffix(".__init__")] = path
    return found


MODULES = modules()
each_module = pytest.mark.parametrize("name", MODULES)


def imports(source: str, name: str, *, is_package: bool = False) -> Iterator[Import]:
    """Give everything that the source of module ``name`` imports, wherever in it."""
    package = name if is_package else name.rpartition(".")[0]

    def walk(node: ast.AST, is_lazy: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            match child:
                case ast.Import():
                    yield from (Import(alias.name, child.lineno, is_lazy) for alias in child.names)
                case ast.ImportFrom():
                    origin = child.module or ""
                    if child.level:
                        ancestors = package.split(".")
                        origin = ".".join([*ancestors[: len(ancestors) - child.level + 1], *filter(None, [origin])])
                    yield from (Import(f"{origin}.{alias.name}", child.lineno, is_lazy) for alias in child.names)
                case ast.Call(
                    func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"),
                    args=[ast.Constant(value=str(target)), *_],
                ):
                    yield Import(target, child.lineno, is_lazy)
            yield from walk(child, is_lazy or _is_deferred(child))

    yield from walk(ast.parse(source), False)


def _is_deferred(node: ast.AST) -> bool:
    """Tell whether what is inside isn't run when the module is imported."""
    if isinstance(node, ast.If):
        return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)


def home(target: str) -> str:
    """Give the module of the package that an imported name is in."""
    package, _, rest = target.partition(".")
    if rest in lading._HOMES:
        return lading._HOMES[rest]
    if rest.partition(".")[0] not in {room for layer in LAYERS for room in layer}:
        return package
    while target not in MODULES and target.count(".") > 1:
        target = target.rpartition(".")[0]
    return target


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def layer(of: str) -> int:
    return next(height for height, rooms in enumerate(LAYERS) if of in rooms)


def trespass(name: str, imported: Import) -> str | None:
    """Say why module ``name`` may not import this, or ``None`` if it may."""
    target = home(imported.target)
    if name in (FACADE, "lading.__main__") or not target.startswith("lading"):
        return None
    if target == FACADE:
        return None if imported.target == f"{FACADE}.__version__" else "the public names are for users"
    mine, other = room(name), room(target)
    if mine == other:
        return None
    if mine == "testing":
        if name == PLUGIN and target in PLUGIN_KNOWS and imported.is_lazy:
            return None
        return None if target in TESTING_KNOWS else "the embedded registry stands alone"
    if other == "testing":
        is_welcome = name in TESTING_IS_KNOWN_TO and imported.is_lazy
        return None if is_welcome else "the embedded registry is imported by serve and demo only, lazily"
    if (mine, other) in STRANGERS:
        return f"{mine} doesn't know the {other}"
    if layer(mine) == layer(other):
        return None if (mine, other) in BESIDE else "it is beside"
    return None if layer(other) < layer(mine) else "it is higher"


def trespasses(source: str, name: str, *, is_package: bool = False) -> list[str]:
    found = imports(source, name, is_package=is_package)
    return [
        f"{name}:{one.line} imports {one.target}: {why}" for one in found if (why := trespass(name, one)) is not None
    ]


def poaching(source: str, name: str) -> list[str]:
    """Give the imports of dependencies that another room owns."""
    return [
        f"{name}:{one.line} imports {one.target}: {', '.join(owners)} own{'s' if len(owners) == 1 else ''} it"
        for one in imports(source, name)
        if (owners := OWNERS.get(one.target.partition(".")[0]))
        and not any(fnmatchcase(name, owner) for owner in owners)
    ]


def environment_reads(source: str) -> list[int]:
    """Give the lines that read, or could read, the environment of the process."""
    names = {"environ", "environb", "getenv", "getenvb"}
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if (isinstance(node, ast.Attribute) and node.attr in names)
        or (isinstance(node, ast.ImportFrom) and node.module == "os" and names & {alias.name for alias in node.names})
    ]


@each_module
def test_no_module_imports_what_it_may_not_know(name: str) -> None:
    path = MODULES[name]
    assert trespasses(path.read_text("utf-8"), name, is_package=path.name == "__init__.py") == []


@each_module
def test_every_dependency_has_one_owner(name: str) -> None:
    assert poaching(MODULES[name].read_text("utf-8"), name) == []


@each_module
def test_the_environment_is_read_where_it_may_be(name: str) -> None:
    if not any(fnmatchcase(name, allowed) for allowed in ENVIRONMENT):
        assert environment_reads(MODULES[name].read_text("utf-8")) == []


@each_module
def test_nothing_that_only_posix_has_is_imported_at_first(name: str) -> None:
    found = imports(MODULES[name].read_text("utf-8"), name)
    assert [one for one in found if one.target.partition(".")[0] in POSIX_ONLY and not one.is_lazy] == []


@each_module
def test_a_module_has_less_than_400_lines(name: str) -> None:
    assert len(MODULES[name].read_text("utf-8").splitlines()) < LINES


def test_every_room_has_its_layer() -> None:
    rooms = {room(name) for name in MODULES} - {"", "__main__"}
    assert rooms <= {room for layer in LAYERS for room in layer}


@pytest.mark.parametrize("heavy", ["aiohttp", "anyio", "asyncio", "sqlite3", "yaml", "click", "rich"])
def test_importing_the_package_imports_nothing_heavy(heavy: str) -> None:
    code = f"import sys, lading; lading.Reference.parse('a').name; sys.exit({heavy!r} in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(SOURCES.parent)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0


# Who imports what, and whether that is a trespass: the rules at work.
SNIPPETS = [
    ("lading.pull.agent", "from lading.oci.digest import Digest", False),
    ("lading.pull.agent", "from lading.pull.policy import before", False),
    ("lading.pull.agent", "import json, typing", False),
    ("lading.network", "from lading import __version__", False),
    ("lading.rooms", "from lading.network import Network", False),
    ("lading.errors", "from lading.redact import redact", False),
    ("lading.push.agent", "from lading.store.store import Store", False),
    ("lading.registry.upload", "from lading.http.redirect import redirect_target", False),
    ("lading.testing.registry", "from lading.oci.digest import Digest", False),
    ("lading.testing.registry", "from lading.testing import grammar", False),
    ("lading.cli.serve", "def run():\n    from lading.testing import EmbeddedRegistry", False),
    ("lading", "from lading.client import Client", False),
    ("lading.oci.digest", "from lading.client import Client", True),
    ("lading.oci.digest", "import lading.client", True),
    ("lading.oci.digest", "import lading.client as c", True),
    ("lading.oci.digest", "from lading import client", True),
    ("lading.oci.digest", "from lading import Client", True),
    ("lading.oci.digest", "from lading import Reference", False),
    ("lading.oci.digest", "import lading", True),
    ("lading.oci.digest", "from ..client import Client", True),
    ("lading.oci.digest", "from .. import client", True),
    ("lading.oci.digest", "from . import reference", False),
    ("lading.oci.digest", "def late():\n    from lading.agents import artifact", True),
    ("lading.oci.digest", "class C:\n    async def late(self):\n        import lading.http.session", True),
    ("lading.oci.digest", "if TYPE_CHECKING:\n    from lading.store.store import Store", True),
    ("lading.oci.digest", "try:\n    pass\nexcept ImportError:\n    import lading.flight", True),
    ("lading.oci.digest", "import_module('lading.client')", True),
    ("lading.oci.digest", "importlib.import_module('lading.client')", True),
    ("lading.events", "from lading.redact import redact", True),
    ("lading.redact", "from lading.errors import LadingError", True),
    ("lading.network", "from lading.client import Client", True),
    ("lading.pull.agent", "from lading.push.agent import pack", True),
    ("lading.push.agent", "from lading.pull.agent import AgentPuller", True),
    ("lading.http.session", "from lading.auth.credentials import Credential", True),
    ("lading.http.session", "from lading.store.store import Store", True),
    ("lading.auth.transport", "from lading.store.store import Store", True),
    ("lading.registry.repository", "from lading.store.store import Store", True),
    ("lading.store.local", "from lading.http.transport import Response", True),
    ("lading.store.local", "from lading.registry.repository import Repository", True),
    ("lading.store.local", "from lading.auth.challenge import Challenge", True),
    ("lading.testing.registry", "from lading.oci.manifest import parse_manifest", True),
    ("lading.testing.registry", "from lading.errors import LadingError", True),
    ("lading.testing.registry", "from lading import Digest", False),
    ("lading.testing.registry", "def run():\n    from lading.client import Client", True),
    ("lading.testing.plugin", "def fixture():\n    from lading.client import Client", False),
    ("lading.testing.plugin", "from lading.client import Client", True),
    ("lading.testing.plugin", "def fixture():\n    from lading.network import Network", True),
    ("lading.cli.serve", "from lading.testing import EmbeddedRegistry", True),
    ("lading.cli.agents", "def run():\n    from lading.testing import EmbeddedRegistry", True),
    ("lading.client", "def run():\n    import lading.testing", True),
]


@pytest.mark.parametrize(("name", "source", "is_trespass"), SNIPPETS)
def test_the_rule_itself(name: str, source: str, is_trespass: bool) -> None:
    assert bool(trespasses(source, name)) is is_trespass


@pytest.mark.parametrize(
    ("name", "source", "is_poaching"),
    [
        ("lading.http.session", "import aiohttp", False),
        ("lading.testing.registry", "from aiohttp import web", False),
        ("lading.client", "import aiohttp.web", True),
        ("lading.client", "def late():\n    from aiohttp import web", True),
        ("lading.auth.transport", "from yarl import URL", True),
        ("lading.store.index", "import sqlite3", False),
        ("lading.store.index_salvage", "import sqlite3", False),
        ("lading.store.local", "import sqlite3", True),
        ("lading.agents.document", "import yaml", False),
        ("lading.agents.capabilities", "import yaml", True),
        ("lading.agents.artifact", "import zstandard", False),
        ("lading.cli", "import click", False),
        ("lading.cli.render", "import rich.progress", False),
        ("lading.diagnose", "import rich", True),
    ],
)
def test_the_rule_of_owners(name: str, source: str, is_poaching: bool) -> None:
    assert bool(poaching(source, name)) is is_poaching


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("import os\nos.environ['A']", [2]),
        ("import os\nos.environ.get('A')", [2]),
        ("import os\nos.getenv('A')", [2]),
        ("import os as o\no.environb", [2]),
        ("from os import environ", [1]),
        ("from os import path, getenv as g", [1]),
        ("def f():\n    from os import environ", [2]),
        ("import os\nos.path.join('a')", []),
        ("from os import path", []),
    ],
)
def test_the_rule_of_the_environment(source: str, lines: list[int]) -> None:
    assert environment_reads(source) == lines
