"""Real programs that tests use: found, started, spoken to. Missing ones fail where CI is set, else skip."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from shell import run

_REQUEST = re.compile(r'"(GET|HEAD|POST|PUT|PATCH|DELETE) (/v2/\S*) HTTP/1\.1" (\d+) ')


def program(name: str) -> str:
    """Give the path of a program that a test needs."""
    found = shutil.which(name)
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{name} isn't installed (apt-get install {name})")
        pytest.skip(f"{name} isn't installed")
    return found


@dataclass
class DockerRegistry:
    """A running docker-registry, and its access log."""

    host: str
    log: Path

    def requests(self) -> list[tuple[str, str, int]]:
        """Give (method, path, status) of each request so far, from the registry's own access log."""
        # A request is logged after it was answered: one more, of ours, tells when those before it are there.
        mark = f"/v2/mark-{uuid.uuid4().hex}/"
        with contextlib.suppress(urllib.error.HTTPError):
            urllib.request.urlopen(f"http://{self.host}{mark}", timeout=10).close()
        deadline = time.monotonic() + 10
        while mark not in (log := self.log.read_text()) and time.monotonic() < deadline:
            time.sleep(0.005)
        found = [(m[1], m[2], int(m[3])) for m in _REQUEST.finditer(log)]
        return [request for request in found if "/mark-" not in request[1]]


@contextmanager
def running_docker_registry(directory: Path, proxied: str = "") -> Iterator[DockerRegistry]:
    """Run docker-registry on loopback, its data and log in ``directory``; or as a pull-through cache of another one."""
    command = program("docker-registry")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{probe.getsockname()[1]}"
    config = directory / "config.yml"
    config.write_text(
        "version: 0.1\n"
        "log: {level: error, accesslog: {disabled: false}}\n"
        f"storage: {{filesystem: {{rootdirectory: {directory / 'data'}}}, delete: {{enabled: true}}}}\n"
        f"http: {{addr: '{host}'}}\n" + (f"proxy: {{remoteurl: 'http://{proxied}'}}\n" if proxied else "")
    )
    log = directory / "access.log"
    with log.open("wb") as out:
        process = subprocess.Popen([command, "serve", str(config)], stdout=out, stderr=subprocess.STDOUT)
    try:
        _await_listener(process, host, log)
        yield DockerRegistry(host, log)
    finally:
        process.terminate()
        process.wait(timeout=10)


def _await_listener(process: subprocess.Popen[bytes], host: str, log: Path) -> None:
    address, _, port = host.partition(":")
    deadline = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection((address, int(port)), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    pytest.fail(f"docker-registry doesn't listen on {host}: {log.read_text()[-500:]}", pytrace=False)


class Skopeo:
    """An independent client."""

    def __init__(self) -> None:
        self._command = program("skopeo")

    def copy(self, source: str, target: str) -> None:
        """Copy between docker://host/name:tag and oci:directory:tag, digests kept."""
        options = ["--src-tls-verify=false", "--dest-tls-verify=false", "--preserve-digests"]
        subprocess.run([self._command, "--insecure-policy", "copy", "--quiet", *options, source, target], check=True)


class Lading:
    """The command, in a directory with a store of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __call__(self, *arguments: str, store: str = "store", stdin: bytes = b"") -> bytes:
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.directory),
            "LADING_HOME": str(self.directory / store),
            "PYTHONWARNINGS": "error",
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        }
        status, out, err = run(arguments, self.directory, env, stdin)
        assert status == 0, err.decode()
        return out


def shared() -> Path:
    """Give the directory of test data that isn't part of the project; it may be absent."""
    given = os.environ.get("LADING_TEST_DATA")
    return Path(given) if given else Path(__file__).resolve().parents[2] / "shared"
