"""Endpoints: which URL answers for a registry."""

from __future__ import annotations

import pytest

from lading.errors import InvalidHosts
from lading.http.hosts import Host, HostsConfig, RegistryHosts
from lading.http.transport import Origin, is_loopback
from lading.registry.endpoints import Endpoint, Endpoints

URLS = {
    "docker.io": "https://registry-1.docker.io",
    "ghcr.io": "https://ghcr.io",
    "ghcr.io:8443": "https://ghcr.io:8443",
    "registry-1.docker.io": "https://registry-1.docker.io",
    "localhost": "http://localhost",
    "localhost:5000": "http://localhost:5000",
    "127.0.0.1": "http://127.0.0.1",
    "127.0.0.1:5000": "http://127.0.0.1:5000",
    "127.8.9.10:80": "http://127.8.9.10:80",
    "[::1]": "http://[::1]",
    "[::1]:5000": "http://[::1]:5000",
    "[2001:db8::1]:5000": "https://[2001:db8::1]:5000",
    "10.0.0.1:5000": "https://10.0.0.1:5000",
    "192.168.0.1": "https://192.168.0.1",
    "0.0.0.0": "https://0.0.0.0",
    "localhost.example.com": "https://localhost.example.com",
    "127.0.0.1.nip.io": "https://127.0.0.1.nip.io",
    "127.1": "https://127.1",
    "mylocalhost:5000": "https://mylocalhost:5000",
}


def endpoint(registry: str) -> Endpoint:
    return Endpoints(registry, HostsConfig().lookup(registry)).server


@pytest.mark.parametrize(("registry", "url"), URLS.items(), ids=URLS.keys())
def test_https_everywhere_but_on_loopback(registry: str, url: str) -> None:
    assert endpoint(registry).root == f"{url}/v2"
    assert is_loopback(registry) is url.startswith("http:")


def test_a_request_is_bound_to_the_registry_and_its_origin() -> None:
    request = endpoint("docker.io").request(
        "GET",
        "/acme/triage/tags/list",
        scopes=("repository:acme/triage:pull",),
        headers={"Accept": "a/b"},
        body=b"x",
    )
    assert request.url == "https://registry-1.docker.io/v2/acme/triage/tags/list"
    assert request.registry == "docker.io"
    assert request.authority == Origin("https", "registry-1.docker.io", 443)
    assert request.scopes == ("repository:acme/triage:pull",)
    assert (request.method, request.headers, request.body) == ("GET", {"Accept": "a/b"}, b"x")


def test_the_authority_is_the_endpoint_also_where_the_url_isnt() -> None:
    request = endpoint("ghcr.io").request("PUT", "https://cdn.example/upload?x=1", scopes=())
    assert request.url == "https://cdn.example/upload?x=1"
    assert request.authority == Origin("https", "ghcr.io", 443)


def test_a_port_that_cant_be_dialled_is_the_typed_error() -> None:
    with pytest.raises(InvalidHosts):
        endpoint("h.io:99999")


def test_what_is_configured_comes_along() -> None:
    host = Host("https://cache.example/a/b", ca="ca.pem", insecure=True, headers={"X-Team": "a"})
    (mirror,) = Endpoints("quay.io", RegistryHosts(Host("https://quay.io"), (host,))).mirrors
    request = mirror.request("GET", "/acme/triage/blobs/x?y=1", scopes=())
    assert request.url == "https://cache.example/a/b/v2/acme/triage/blobs/x?y=1&ns=quay.io"
    assert request.site == host.site
    assert mirror.request("GET", "https://elsewhere.example/", scopes=()).url == "https://elsewhere.example/"


def test_nobody_may_push() -> None:
    endpoints = Endpoints("quay.io", RegistryHosts(Host("https://quay.io", ["pull", "resolve"])))
    with pytest.raises(InvalidHosts, match="push"):
        endpoints.candidates("push")
    assert endpoints.candidates("pull") == [endpoints.server]


def test_who_else_is_left_is_asked_in_spite_of_all() -> None:
    hosts = RegistryHosts(Host("https://quay.io", ["push"]), (Host("https://a.example"),))
    endpoints = Endpoints("quay.io", hosts)
    endpoints.failed(endpoints.mirrors[0], InvalidHosts("broken"))
    assert endpoints.candidates("pull") == [endpoints.mirrors[0]]
