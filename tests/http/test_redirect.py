"""The redirect ring: by hand, bounded, and never to somewhere less safe."""

from __future__ import annotations

import pytest
from scripted import Answer, ScriptedTransport

from lading.errors import ConnectFailed, ProtocolError
from lading.http.redirect import MAX_HOPS, RedirectTransport, redirect_target
from lading.http.transport import Origin, Request

START = "https://registry.example/v2/acme/triage/blobs/x"
AUTHORITY = Origin.of(START)


def get(url: str = START, method: str = "GET") -> Request:
    return Request(
        method, url, {"Accept": "a/b"}, None, "registry.example", AUTHORITY, ("repository:acme/triage:pull",)
    )


def to(location: str, status: int = 307) -> Answer:
    return Answer(status, {"Location": location})


async def test_an_answer_passes() -> None:
    inner = ScriptedTransport(Answer(200, body=b"x"))
    async with await RedirectTransport(inner).send(get()) as response:
        assert (response.status, await response.read(10)) == (200, b"x")
    assert inner.requests == [get()]
    inner.assert_done()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_reading_request_follows_with_its_method(status: int, method: str) -> None:
    inner = ScriptedTransport(to("https://cdn.example/x", status), Answer(200))
    async with await RedirectTransport(inner).send(get(method=method)) as response:
        assert response.url == "https://cdn.example/x"
    assert inner.asked == [(method, START), (method, "https://cdn.example/x")]
    inner.assert_done()


@pytest.mark.parametrize("status", [307, 308])
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_a_writing_request_follows_with_its_method_and_body(status: int, method: str) -> None:
    inner = ScriptedTransport(to("/elsewhere", status), Answer(201))
    request = Request(method, START, {"Content-Type": "a/b"}, b"body")
    async with await RedirectTransport(inner).send(request):
        pass
    assert inner.requests[1] == Request(method, "https://registry.example/elsewhere", {"Content-Type": "a/b"}, b"body")
    inner.assert_done()


@pytest.mark.parametrize("status", [301, 302, 303])
async def test_a_writing_request_never_becomes_a_get(status: int) -> None:
    inner = ScriptedTransport(to("/elsewhere", status))
    async with await RedirectTransport(inner).send(Request("POST", START)) as response:
        assert response.status == status
    inner.assert_done()


@pytest.mark.parametrize("status", [200, 201, 202, 204, 206, 300, 304, 305, 306, 401, 404, 503])
async def test_no_other_status_is_a_redirect(status: int) -> None:
    inner = ScriptedTransport(to("/elsewhere", status))
    async with await RedirectTransport(inner).send(get()) as response:
        assert response.status == status
    inner.assert_done()


@pytest.mark.parametrize("headers", [{}, {"Location": ""}], ids=["absent", "empty"])
async def test_without_a_location_it_is_an_answer(headers: dict[str, str]) -> None:
    inner = ScriptedTransport(Answer(307, headers))
    async with await RedirectTransport(inner).send(get()) as response:
        assert response.status == 307
    inner.assert_done()


async def test_the_authority_is_kept_while_the_url_changes() -> None:
    inner = ScriptedTransport(to("https://cdn.example/x"), to("https://registry.example/back"), Answer(200))
    async with await RedirectTransport(inner).send(get()):
        pass
    assert [Origin.of(request.url).host for request in inner.requests] == [
        "registry.example",
        "cdn.example",
        "registry.example",
    ]
    assert [request.authority for request in inner.requests] == [AUTHORITY] * 3
    assert {request.registry for request in inner.requests} == {"registry.example"}


async def test_a_relative_location_is_resolved_against_the_hop_that_gave_it() -> None:
    inner = ScriptedTransport(to("https://cdn.example/a/b"), to("c?d=e"), to("/f"), Answer(200))
    async with await RedirectTransport(inner).send(get()) as response:
        assert response.url == "https://cdn.example/f"
    assert inner.requests[2].url == "https://cdn.example/a/c?d=e"


async def test_a_signed_url_isnt_quoted_again() -> None:
    signed = "https://cdn.example/x%2Fy?X-Sig=a%2Bb+c%3D%3D&k=%7E~&e="
    inner = ScriptedTransport(to(signed), Answer(200))
    async with await RedirectTransport(inner).send(get()):
        pass
    assert inner.requests[1].url == signed


async def test_ten_redirects_are_followed() -> None:
    inner = ScriptedTransport(*[to(f"/{hop}") for hop in range(MAX_HOPS)], Answer(200))
    async with await RedirectTransport(inner).send(get()) as response:
        assert response.url.endswith("/9")
    inner.assert_done()


@pytest.mark.parametrize("locations", [["/same"], ["/one", "/two"]], ids=["to itself", "to and fro"])
async def test_a_loop_ends(locations: list[str]) -> None:
    inner = ScriptedTransport(*[to(locations[hop % len(locations)]) for hop in range(MAX_HOPS + 1)])
    with pytest.raises(ProtocolError, match="more than 10 redirects"):
        await RedirectTransport(inner).send(get())
    inner.assert_done()


async def test_a_downgrade_to_http_is_refused() -> None:
    inner = ScriptedTransport(to("http://registry.example/v2/?token=hunter2"))
    with pytest.raises(ProtocolError, match=r"from https to http://registry\.example/v2/") as caught:
        await RedirectTransport(inner).send(get())
    assert "hunter2" not in str(caught.value)
    inner.assert_done()


async def test_an_upgrade_to_https_is_followed_and_not_undone() -> None:
    inner = ScriptedTransport(to("https://h/x"), to("http://h/x"))
    with pytest.raises(ProtocolError, match="from https"):
        await RedirectTransport(inner).send(get("http://h/x"))
    assert len(inner.requests) == 2
    inner.assert_done()


@pytest.mark.parametrize(
    "location",
    [
        "https://user:hunter2@cdn.example/x",
        "https://registry.example@evil.example/",
        "ftp://cdn.example/x",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "https://cdn.example/é",
        "https://аррӏе.com/",
        "https://cdn.example/a b",
        "https://cdn.example/\r\nX-Evil: 1",
        "/\\evil.example",
        "https://:443/",
        "https://cdn.example:99999/",
        "http://[::1",
        "//[",
    ],
)
async def test_what_isnt_an_http_url_is_refused(location: str) -> None:
    inner = ScriptedTransport(to(location))
    with pytest.raises(ProtocolError) as caught:
        await RedirectTransport(inner).send(get())
    assert "hunter2" not in str(caught.value)
    assert str(caught.value).isprintable()
    inner.assert_done()


async def test_a_failure_behind_a_redirect_is_the_callers() -> None:
    inner = ScriptedTransport(to("https://cdn.example/x"), ConnectFailed("no", url="https://cdn.example/x"))
    with pytest.raises(ConnectFailed):
        await RedirectTransport(inner).send(get())
    inner.assert_done()


def test_a_fragment_is_dropped() -> None:
    assert redirect_target("https://h/a", "/b#c") == "https://h/b"


def test_plain_http_may_lead_to_plain_http() -> None:
    assert redirect_target("http://localhost:5000/a", "http://localhost:5001/b") == "http://localhost:5001/b"
