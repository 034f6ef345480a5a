"""Whether what was built, or installed with an extra, is whole: ``python smoke.py [EXTRA]``, ``… --built SDIST WHEEL``.

It runs where no test tool is installed, so it is a program of its own; `nox -s build extras` runs it.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

YAML = b"agents: {root: {}}\n"
ZSTD = b"\x28\xb5\x2f\xfd\x20" + bytes([len(YAML)]) + (len(YAML) << 3 | 1).to_bytes(3, "little") + YAML
"""A frame whose one block isn't compressed (RFC 8878, section 3.1.1)."""

USES_FIXTURES = """
import pytest

@pytest.mark.parametrize("tls", [False, True])
def test_it(oci_registry_factory, tls):
    assert oci_registry_factory(tls=tls).url.startswith("https:" if tls else "http:")
"""


def built(sdist: str, wheel: str) -> None:
    """See that a source distribution and a wheel hold what they should, and nothing else."""
    with tarfile.open(sdist) as archive:
        sources = {name.partition("/")[2] for name in archive.getnames()}
    with zipfile.ZipFile(wheel) as packed:
        names = set(packed.namelist())
    package = {name.removeprefix("src/") for name in sources if name.startswith("src/lading/")}
    assert {name for name in names if ".dist-info/" not in name} == package
    assert "lading/py.typed" in names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    top = {name.partition("/")[0] for name in sources if not name.startswith(".")}
    assert top >= {"tests", "docs", "examples", "benchmarks", "README.md", "CHANGELOG.md", "LICENSE", "noxfile.py"}
    assert not [name for name in sources | names if "__pycache__" in name or "/.venv/" in name]


def imported(extra: str) -> None:
    """Import everything; what belongs to pytest only where pytest is."""
    import lading

    for module in pkgutil.walk_packages(lading.__path__, "lading."):
        if module.name != "lading.__main__" and (extra == "testing" or module.name != "lading.testing.plugin"):
            importlib.import_module(module.name)
    for name in lading.__all__:
        getattr(lading, name)


def testing() -> None:
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "test_it.py").write_text(USES_FIXTURES)
        subprocess.run([sys.executable, "-m", "pytest", "-q", "-W", "error", directory], check=True, cwd=directory)


def otel() -> None:
    from lading.telemetry import OpenTelemetry

    assert callable(OpenTelemetry())


def speed() -> None:
    import anyio

    async def loop() -> str:
        import asyncio

        return type(asyncio.get_running_loop()).__module__

    assert anyio.run(loop, backend_options={"use_uvloop": True}) == "uvloop"


def zstd() -> None:
    from lading.agents.artifact import unpack

    assert unpack(ZSTD) == YAML


def main(extra: str = "", *arguments: str) -> None:
    if extra == "--built":
        built(*arguments)
        return
    imported(extra)
    if extra:
        {"testing": testing, "otel": otel, "speed": speed, "zstd": zstd}[extra]()
    version = importlib.metadata.version("lading")
    for verb in (["--version"], ["demo"]):
        command = [sys.executable, "-W", "error", "-m", "lading", *verb]
        shown = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        assert version in shown if verb == ["--version"] else "registry down" in shown, shown
    print(f"lading {version} {extra}: all there")


if __name__ == "__main__":
    main(*sys.argv[1:])
