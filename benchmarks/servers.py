"""The servers that are asked, each in a process of its own and on a free port of loopback, and what they count.

They are started by their path and ended by their process id; what they need is in the directory that they are given.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from benchmarks.shelf import OCI_MANIFEST, Shelf, lay_out_docker_registry

ROOT = Path(__file__).resolve().parents[1]
_PATIENCE_SECONDS = 30.0


class Missing(Exception):
    """What a measurement needs isn't there; the message says what."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What a server has done so far; ``None`` where it doesn't count that."""

    requests: int = 0
    bytes: int = 0
    connections: int | None = None

    def since(self, before: Counts) -> Counts:
        """Give what was done since ``before``."""
        known = self.connections is not None and before.connections is not None
        connections = self.connections - before.connections if known else None  # type: ignore[operator]
        return Counts(self.requests - before.requests, self.bytes - before.bytes, connections)


class Server(Protocol):
    """A registry that is up; ``host`` is what goes in front of a reference."""

    host: str

    def counts(self) -> Counts:
        """Give what it has done until now, for certain."""
        ...


def program(name: str) -> str:
    """Give the path of a program. Raises Missing."""
    found = shutil.which(name)
    if found is None:
        raise Missing(f"{name} isn't installed")
    return found


# nginx


class Nginx:
    """nginx as a static registry of what is on a shelf, one worker; counts by its access log."""

    def __init__(self, host: str, log: Path) -> None:
        self.host = host
        self._log = log

    def counts(self) -> Counts:
        """Give what it has done until now: a request of ours tells when those before it have been logged."""
        mark = f"/mark-{uuid.uuid4().hex}"
        with contextlib.suppress(urllib.error.HTTPError):
            urllib.request.urlopen(f"http://{self.host}{mark}", timeout=10).close()
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while mark not in (text := self._log.read_text()):
            if time.monotonic() > deadline:
                raise RuntimeError("nginx doesn't log its requests")
            time.sleep(0.005)
        return counted(text)


def counted(log: str) -> Counts:
    """Count the lines of an access log: connection, bytes of the body, path."""
    lines = [line.split(" ", 2) for line in log.splitlines() if "/mark-" not in line]
    return Counts(len(lines), sum(int(line[1]) for line in lines), len({line[0] for line in lines}))


@contextmanager
def nginx(directory: Path, shelf: Shelf, host: str = "") -> Iterator[Nginx]:
    """Serve ``shelf``, at a free port unless at ``host``. Raises Missing."""
    command = program("nginx")
    host, log = host or free_host(), directory / "access.log"
    directory.mkdir(parents=True, exist_ok=True)
    digests = "".join(
        f'"/v2/{one.repository}/manifests/v1" "{one.manifest}";\n'
        f'"/v2/{one.repository}/manifests/{one.manifest}" "{one.manifest}";\n'
        for one in shelf.published
    )
    (directory / "digests").write_text(digests)
    # Workers of root's nginx would be somebody who can't see a private directory.
    user = "user root;" if hasattr(os, "geteuid") and os.geteuid() == 0 else ""
    (directory / "nginx.conf").write_text(
        f"""
        daemon off; {user} worker_processes 1; pid {directory}/pid; error_log {directory}/error.log;
        events {{ worker_connections 1024; }}
        http {{
            log_format short '$connection $body_bytes_sent $request_uri'; access_log {log} short;
            client_body_temp_path {directory}; proxy_temp_path {directory}; fastcgi_temp_path {directory};
            uwsgi_temp_path {directory}; scgi_temp_path {directory};
            sendfile on; sendfile_max_chunk 1m; tcp_nopush on; keepalive_requests 1000000;
            keepalive_timeout 600s; send_timeout 600s;
            open_file_cache max=10000; types {{ }}
            map_hash_max_size 65536; map_hash_bucket_size 256;
            map $uri $digest {{ default ""; include {directory}/digests; }}
            server {{
                listen {host} backlog=1024; root {shelf.root};
                location = /v2/ {{ default_type application/json; return 200 "{{}}"; }}
                location ~ /manifests/ {{ default_type {OCI_MANIFEST}; add_header Docker-Content-Digest $digest; }}
                location ~ /blobs/ {{ default_type application/octet-stream; }}
            }}
        }}
        """
    )
    process = _start([command, "-p", str(directory), "-c", str(directory / "nginx.conf")])
    with _ended(process):
        _await_listener(process, host)
        yield Nginx(host, log)


# docker-registry


class DockerRegistry:
    """Debian's docker-registry; counts by its own metrics, which know nothing of connections."""

    def __init__(self, host: str, metrics: str) -> None:
        self.host = host
        self._metrics = metrics

    def counts(self) -> Counts:
        """Give what it has done until now."""
        with urllib.request.urlopen(f"http://{self._metrics}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        return metered(text)


def metered(text: str) -> Counts:
    """Add up the metrics of docker-registry (Prometheus' text format)."""
    found = re.findall(r"^registry_http_(requests_total|response_size_bytes_sum)\{[^}]*\} ([0-9.e+]+)$", text, re.M)
    sums = {"requests_total": 0.0, "response_size_bytes_sum": 0.0}
    for name, value in found:
        sums[name] += float(value)
    return Counts(int(sums["requests_total"]), int(sums["response_size_bytes_sum"]))


@contextmanager
def docker_registry(directory: Path, shelf: Shelf) -> Iterator[DockerRegistry]:
    """Serve ``shelf``. Raises Missing."""
    command = program("docker-registry")
    host, metrics = free_host(), free_host()
    lay_out_docker_registry(shelf, directory / "data")
    (directory / "config.yml").write_text(
        "version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"
        f"storage: {{filesystem: {{rootdirectory: {directory / 'data'}}}}}\n"
        f"http: {{addr: '{host}', debug: {{addr: '{metrics}', prometheus: {{enabled: true, path: /metrics}}}}}}\n"
    )
    with (directory / "log").open("wb") as log:
        process = _start([command, "serve", str(directory / "config.yml")], stdout=log, stderr=log)
    with _ended(process):
        _await_listener(process, host)
        _await_listener(process, metrics)
        yield DockerRegistry(host, metrics)


# lading's own


class Embedded:
    """The embedded registry, which can be told to stop, to answer late, to ask who is there."""

    def __init__(self, process: subprocess.Popen[str], host: str) -> None:
        self.host = host
        self._process = process

    def counts(self) -> Counts:
        """Give what it has done until now."""
        return Counts(**self.tell("counts"))

    def tell(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Tell it ``counts``, ``stop``, ``start``, ``late`` (``seconds``), and give what it answers."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": command, **arguments}) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


@contextmanager
def embedded(shelf: Shelf, *, private: bool = False) -> Iterator[Embedded]:
    """Serve ``shelf``; if ``private``, it asks for tokens as GHCR does."""
    with _piped("benchmarks.embedded", str(shelf.root), "private" if private else "open") as (process, told):
        yield Embedded(process, told["host"])


# Distance


class Far:
    """A server from afar: another ``host``, the same counts."""

    def __init__(self, server: Server, host: str) -> None:
        self.host = host
        self._server = server

    def counts(self) -> Counts:
        """Give what the server itself has done."""
        return self._server.counts()


@contextmanager
def distant(host: str, rtt: float, bandwidth: float | None = None) -> Iterator[str]:
    """Give a host that is ``host``, which needn't listen yet, ``rtt`` seconds of round trip away.

    ``bandwidth`` is what a connection gives, in bytes a second.
    """
    limits = [str(rtt)] if bandwidth is None else [str(rtt), str(bandwidth)]
    with _piped("benchmarks.delay", host, *limits) as (_, told):
        yield f"127.0.0.1:{told['port']}"


@contextmanager
def far(server: Server, rtt: float, bandwidth: float | None = None) -> Iterator[Server]:
    """Move a server away; without any distance or limit give it as it is."""
    if not rtt and bandwidth is None:
        yield server
        return
    with distant(server.host, rtt, bandwidth) as host:
        yield Far(server, host)


# Processes


@contextmanager
def _piped(module: str, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """Run a module of ours that says something at first, and ends when its standard input does."""
    command = [sys.executable, "-m", module, *arguments]
    process = _start(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    with _ended(process):
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"{module} didn't start")
        yield process, json.loads(line)


def _start(command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
    """Start a process that Ctrl-C doesn't end: whoever started it does, in order."""
    return subprocess.Popen(command, **{"stdin": subprocess.DEVNULL, "start_new_session": True, **options})


class _ended:  # noqa: N801  # a context manager, used like the functions beside it
    """End a process, whatever happened."""

    def __init__(self, process: subprocess.Popen[Any]) -> None:
        self._process = process

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.terminate()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def free_host() -> str:
    """Give an address of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def _await_listener(process: subprocess.Popen[Any], host: str) -> None:
    address, _, port = host.partition(":")
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection((address, int(port)), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise Missing(f"nothing listens on {host}: {process.args!r}")
