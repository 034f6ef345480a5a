"""TLS: a certificate that is right for loopback, by an authority that only those trust who are told to."""

from __future__ import annotations

import ssl
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest

from lading.testing import EmbeddedRegistry, ThrowawayCA


async def ping(url: str, context: ssl.SSLContext) -> int:
    async with aiohttp.ClientSession() as http, http.get(f"{url}/v2/", ssl=context) as response:
        return response.status


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
async def test_its_names_are_trusted_by_who_trusts_the_authority(name: str) -> None:
    async with EmbeddedRegistry(tls=True) as registry:
        assert registry.url == f"https://{registry.host}"
        context = ssl.create_default_context(cadata=registry.ca_pem.decode("ascii"))
        assert await ping(registry.url.replace("127.0.0.1", name), context) == 200
    registry.assert_requests("GET ping")
    assert registry.requests[0].connection == registry.connections == 1


async def test_nobody_else_trusts_it() -> None:
    async with EmbeddedRegistry(tls=True) as registry:
        for context in (ssl.create_default_context(), ThrowawayCA().client_context()):
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await ping(registry.url, context)
    assert registry.requests == []


async def test_the_name_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    async with EmbeddedRegistry(tls=True) as registry, aiohttp.ClientSession() as http:
        context = ssl.create_default_context(cadata=registry.ca_pem.decode("ascii"))
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await http.get(registry.url, ssl=context, server_hostname="registry.example")


async def test_registries_share_an_authority(tmp_path: Path) -> None:
    ca = ThrowawayCA()
    ca.write(tmp_path / "ca.pem")
    context = ssl.create_default_context(cafile=tmp_path / "ca.pem")
    async with EmbeddedRegistry(tls=ca) as one, EmbeddedRegistry(tls=ca) as two:
        assert one.ca_pem == two.ca_pem == ca.pem == (tmp_path / "ca.pem").read_bytes()
        assert await ping(one.url, context) == await ping(two.url, ca.client_context()) == 200


async def test_it_keeps_its_certificate_when_it_comes_back() -> None:
    async with EmbeddedRegistry(tls=True) as registry:
        context = ssl.create_default_context(cadata=registry.ca_pem.decode("ascii"))
        await registry.stop()
        await registry.start()
        assert await ping(registry.url, context) == 200


async def test_an_address_besides_is_on_the_certificate() -> None:
    async with EmbeddedRegistry(host="127.0.0.2", tls=True) as registry:
        assert await ping(registry.url, ssl.create_default_context(cadata=registry.ca_pem.decode("ascii"))) == 200


async def test_it_speaks_no_plain_http() -> None:
    async with EmbeddedRegistry(tls=True) as registry, aiohttp.ClientSession() as http:
        with pytest.raises(aiohttp.ClientError):
            await http.get(f"http://{registry.host}/v2/")
    assert (registry.requests, registry.connections) == ([], 0)


def test_without_tls_there_is_no_certificate() -> None:
    with pytest.raises(RuntimeError, match="tls=True"):
        _ = EmbeddedRegistry().ca_pem


def test_the_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trustme", None)
    with pytest.raises(RuntimeError, match=r"pip install 'lading\[testing\]'"):
        EmbeddedRegistry(tls=True)
    EmbeddedRegistry()


def test_it_is_imported_only_where_tls_is_asked_for() -> None:
    code = "import sys; from lading.testing import EmbeddedRegistry, ThrowawayCA; EmbeddedRegistry()"
    code += "; sys.exit('trustme' in sys.modules or 'cryptography' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
