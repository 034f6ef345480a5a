"""Attacks that concern no room alone: names that are paths, plain http behind a TLS error, answers without an end."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from aiohttp import web
from artifacts import ANNOTATED, MANIFEST, describe, publish, sha256
from shell import Shell

from lading import Client, MemoryStore, Retry
from lading.auth.credentials import Credential, StaticCredentials
from lading.errors import LadingError, ProtocolError, RegistryError, SizeMismatch, TlsFailed
from lading.testing import EmbeddedRegistry, RecordedRequest

MIB = 1024 * 1024

# CVE-2026-50163, GHSA-8xwf-rjm4-xvhv: a name from an artifact leads out of the directory.

TITLES = [
    "../escaped",
    "../../escaped.yaml",
    "/tmp/lading-escaped",
    "~/.bashrc",
    "a/../../escaped",
    "..\\escaped",
    "..",
]


def tree(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*")}


def hostile_archive() -> bytes:
    """A layer whose members lead out of wherever somebody unpacks it: by name, and through links."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name in TITLES:
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "../.."
        tar.addfile(link)
        tar.addfile(tarfile.TarInfo("link/escaped"), io.BytesIO())
    return file.getvalue()


async def test_no_name_in_an_artifact_becomes_a_path(registry: EmbeddedRegistry, tmp_path: Path) -> None:
    lading = Shell(tmp_path)
    layers = [f"agents: {{root: {{}}}}\n# {number}\n".encode() for number in range(len(TITLES))] + [hostile_archive()]
    named = [{"org.opencontainers.image.title": title, "io.deis.oras.content.unpack": "true"} for title in TITLES]
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": describe("application/vnd.oci.empty.v1+json", b"{}", annotations=named[0]),
        "layers": [
            describe("application/vnd.oci.image.layer.v1.tar", layer, annotations=title)
            for layer, title in zip(layers, [*named, named[0]], strict=True)
        ],
        "annotations": {**ANNOTATED, **named[0]},
    }
    for blob in (b"{}", *layers):
        registry.add_blob("acme/triage", blob)
    registry.add_manifest("acme/triage", json.dumps(document).encode(), MANIFEST, tag="v1")
    ref = f"{registry.host}/acme/triage:v1"
    before = tree(tmp_path)
    for arguments in (("pull", ref), ("fetch", ref), ("export", ref, "layout"), ("export", ref, "layout.tar")):
        done = await lading(*arguments)
        assert done.status == 0, done.err
    assert (await lading("import", "layout.tar", "--as", "ghcr.io/acme/copy:v1")).status == 0
    made = tree(tmp_path) - before
    file = f"{ref.replace('/', '_').replace(':', '_')}.yaml"
    assert (lading.directory / file).read_bytes() == layers[0]
    assert all(path.startswith(("store", "work/layout")) or path in ("store", f"work/{file}") for path in made), made
    digests = {sha256(blob).partition(":")[2] for blob in (b"{}", *layers, json.dumps(document).encode())}
    blobs = {path.rpartition("/")[2] for path in made if path.startswith("work/layout/blobs/sha256/")}
    assert blobs == digests
    assert not Path("/tmp/lading-escaped").exists()


# CVE-2014-5277: https that fails goes on as http.


@pytest.mark.parametrize("verb", ["pull_agent", "pull", "resolve", "push_agent", "copy", "tags"])
async def test_https_that_fails_never_goes_on_as_plain_http(verb: str) -> None:
    """Not for a server that speaks no TLS: nothing is sent to it that isn't encrypted."""
    received = bytearray()

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            received.extend(await reader.read(65536))
            writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(plain, "127.0.0.1", 0)
    # It connects to this machine, but isn't a loopback address by name: https.
    host = f"0.0.0.0:{server.sockets[0].getsockname()[1]}"
    ref = f"{host}/acme/triage:v1"
    credentials = StaticCredentials({host: Credential("ada", "hunter2-secret")})
    retry = Retry(attempts=2, first_delay=0.0)
    async with server, Client(MemoryStore(), credentials=credentials, retry=retry, proxy=None) as client:
        verbs: dict[str, Callable[[], Awaitable[object]]] = {
            "pull_agent": lambda: client.pull_agent(ref),
            "pull": lambda: client.pull(ref),
            "resolve": lambda: client.resolve(ref),
            "push_agent": lambda: client.push_agent(b"agents: {}\n", ref),
            "copy": lambda: client.copy(ref, f"{ref}-copy"),
            "tags": lambda: anext(aiter(client.tags(ref))),
        }
        with anyio.fail_after(20), pytest.raises(TlsFailed):
            await verbs[verb]()
    assert received[:2] == b"\x16\x03", "the beginning of a TLS handshake"
    assert b"HTTP/1.1" not in received
    assert b"hunter2-secret" not in received


# CVE-2023-25153, CVE-2017-11468: an answer that doesn't end.


class Fountain:
    """A server whose every answer begins with ``head``, and never ends."""

    def __init__(self, head: Callable[[str], str]) -> None:
        self.sent = 0
        self.answers = 0
        self.port = 0
        self._head = head

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            line = (await reader.readuntil(b"\r\n\r\n")).decode().partition("\r\n")[0]
            writer.write(f"{self._head(line)}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
            self.answers += 1
            piece = b" " * 65536
            while True:
                writer.write(b"10000\r\n" + piece + b"\r\n")
                await writer.drain()
                self.sent += len(piece)
        writer.close()


@asynccontextmanager
async def fountain(head: Callable[[str], str]) -> AsyncIterator[Fountain]:
    made = Fountain(head)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()


OK = f"HTTP/1.1 200 OK\r\nContent-Type: {MANIFEST}"


def challenged(line: str) -> str:
    realm = 'Bearer realm="/token",service="x"'
    return OK if "/token" in line else f"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: {realm}"


@pytest.mark.parametrize(
    ("head", "error"),
    [
        (lambda line: OK, ProtocolError),
        (lambda line: "HTTP/1.1 500 Oops", RegistryError),
        (lambda line: "HTTP/1.1 404 Not Found", RegistryError),
        (challenged, LadingError),
        (lambda line: "HTTP/1.1 307 Temporary Redirect\r\nLocation: /again", ProtocolError),
    ],
    ids=["manifest", "failure", "refusal", "challenge and token", "redirects"],
)
async def test_an_answer_without_an_end_is_cut_off(head: Callable[[str], str], error: type[LadingError]) -> None:
    async with fountain(head) as server:
        client = Client(MemoryStore(), credentials=StaticCredentials({}), retry=Retry(attempts=1))
        ref = f"127.0.0.1:{server.port}/acme/triage:v1"
        async with client:
            for verb in (client.pull_agent(ref), client.pull(ref), anext(aiter(client.tags(ref)))):
                with anyio.fail_after(20), pytest.raises(error):
                    await verb
    # 4 MiB of each at most are read; the rest is what the buffers of both sides hold.
    assert server.sent < server.answers * 16 * MIB
    assert server.answers <= 3 * 11


async def test_a_blob_without_an_end_is_cut_off_at_its_size(registry: EmbeddedRegistry) -> None:
    content = b"agents: {root: {}}\n" * 20_000
    publish(registry, content)
    async with fountain(lambda line: "HTTP/1.1 200 OK") as server:
        blob = f"http://127.0.0.1:{server.port}/blob"

        async def elsewhere(request: web.Request, record: RecordedRequest) -> web.Response | None:
            return web.Response(status=307, headers={"Location": blob}) if record.kind == "blob" else None

        registry.intercept = elsewhere
        async with Client(MemoryStore(), credentials=StaticCredentials({}), retry=Retry(attempts=1)) as client:
            for verb in (client.pull_agent, client.pull):
                with anyio.fail_after(20), pytest.raises(SizeMismatch):
                    await verb(f"{registry.host}/acme/triage:v1")
    assert server.sent < server.answers * 16 * MIB
