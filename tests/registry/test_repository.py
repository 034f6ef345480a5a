"""Reading a repository, against a scripted registry."""

from __future__ import annotations

import gzip
import json
import logging
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import CHUNK, Answer, ScriptedTransport

from lading.errors import (
    BodyInterrupted,
    ConnectFailed,
    Denied,
    DigestMismatch,
    NotFound,
    ProtocolError,
    RateLimited,
    RegistryError,
    TlsFailed,
    Unauthorized,
)
from lading.http.hosts import Host, HostsConfig, RegistryHosts
from lading.http.retry import Attempts, Retry
from lading.http.transport import Headers, Origin, Response
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest
from lading.oci.manifest import MANIFEST_LIMIT
from lading.oci.media_types import OCI_INDEX, OCI_MANIFEST
from lading.registry.endpoints import Endpoints
from lading.registry.refusal import retry_after
from lading.registry.repository import Repository, Served

RAW = b'{"schemaVersion": 2}'
DIGEST = Digest.of(RAW)
SHA512 = Digest.of(RAW, "sha512")
OTHER = Digest.of(b"other")
BASE = "https://ghcr.io/v2/acme/triage"
HEAD = {"Docker-Content-Digest": str(DIGEST), "Content-Type": OCI_MANIFEST, "Content-Length": str(len(RAW))}


def script(*answers: Answer | ConnectFailed) -> tuple[ScriptedTransport, Repository]:
    transport = ScriptedTransport(*answers)
    return transport, Repository(transport, endpoints("ghcr.io"), "acme/triage", set())


def endpoints(registry: str) -> Endpoints:
    return Endpoints(registry, HostsConfig().lookup(registry))


async def whole(response: Response, attempts: Attempts) -> bytes:
    return await response.read(100)


def errors(*entries: object) -> bytes:
    return json.dumps({"errors": entries}).encode()


class TestRequests:
    @pytest.mark.parametrize("selector", ["v1", str(DIGEST)])
    async def test_manifests_are_asked_for_with_every_type(self, selector: str) -> None:
        transport, repository = script(Answer(200, HEAD), Answer(200, HEAD, RAW))
        await repository.resolve(selector)
        await repository.manifest(selector)
        assert transport.asked == [("HEAD", f"{BASE}/manifests/{selector}"), ("GET", f"{BASE}/manifests/{selector}")]
        for request in transport.requests:
            assert request.headers == {
                "Accept": "application/vnd.oci.image.manifest.v1+json, "
                "application/vnd.oci.image.index.v1+json, "
                "application/vnd.docker.distribution.manifest.v2+json, "
                "application/vnd.docker.distribution.manifest.list.v2+json"
            }

    async def test_every_request_is_bound_to_the_registry_and_asks_to_pull_only(self) -> None:
        transport, repository = script(
            Answer(200, HEAD), Answer(200, HEAD, RAW), Answer(200), Answer(200, body=b'{"tags":[]}')
        )
        await repository.resolve("v1")
        await repository.manifest("v1")
        await repository.blob(DIGEST, whole)
        assert [tag async for tag in repository.tags()] == []
        for request in transport.requests:
            assert (request.registry, request.authority) == ("ghcr.io", Origin("https", "ghcr.io", 443))
            assert request.scopes == ("repository:acme/triage:pull",)
            assert request.body is None
        transport.assert_done()


class TestResolve:
    async def test_head_says_what_a_tag_stands_for(self) -> None:
        transport, repository = script(Answer(200, {**HEAD, "Content-Type": f"{OCI_INDEX}; charset=utf-8"}))
        assert await repository.resolve("v1") == Descriptor(OCI_INDEX, DIGEST, len(RAW))
        transport.assert_done()

    @pytest.mark.parametrize(
        "headers",
        [
            {"Docker-Content-Digest": None},
            {"Docker-Content-Digest": ""},
            {"Docker-Content-Digest": "sha256:../../x"},
            {"Docker-Content-Digest": "sha256:" + "A" * 64},
            {"Docker-Content-Digest": f"{DIGEST}\n"},
            {"Docker-Content-Digest": "blake3:" + "a" * 64},
            {"Content-Type": None},
            {"Content-Type": "text/html"},
            {"Content-Type": "application/json"},
            {"Content-Length": None},
            {"Content-Length": "-1"},
            {"Content-Length": "1e3"},
            {"Content-Length": "١٢"},
            {"Content-Length": "²"},
            {"Content-Length": "1" * 5000},
        ],
        ids=str,
    )
    async def test_a_head_that_doesnt_say_gives_none(self, headers: dict[str, str | None]) -> None:
        transport, repository = script(
            Answer(200, {name: value for name, value in {**HEAD, **headers}.items() if value is not None})
        )
        assert await repository.resolve("v1") is None
        transport.assert_done()

    @pytest.mark.parametrize("status", [405, 501])
    async def test_a_registry_without_head_gives_none(self, status: int) -> None:
        transport, repository = script(Answer(status))
        assert await repository.resolve("v1") is None
        transport.assert_done()

    async def test_another_digest_than_the_pinned_one_is_refused(self) -> None:
        _, repository = script(Answer(200, HEAD))
        with pytest.raises(DigestMismatch, match=str(DIGEST)):
            await repository.resolve(str(OTHER))

    async def test_the_pinned_digest_in_another_algorithm_says_nothing(self) -> None:
        _, repository = script(Answer(200, {**HEAD, "Docker-Content-Digest": str(SHA512)}))
        assert await repository.resolve(str(DIGEST)) is None

    async def test_a_refusal_is_typed(self) -> None:
        transport, repository = script(Answer(404))
        with pytest.raises(NotFound, match=r"ghcr\.io/acme/triage:v1: HEAD answered 404"):
            await repository.resolve("v1")
        transport.assert_done()


class TestManifest:
    async def test_it_is_given_as_it_was_served(self) -> None:
        transport, repository = script(Answer(200, {**HEAD, "Content-Type": f"{OCI_MANIFEST}; x=y"}, RAW))
        assert await repository.manifest("v1") == Served(RAW, f"{OCI_MANIFEST}; x=y", DIGEST)
        transport.assert_done()

    @pytest.mark.parametrize(
        "headers",
        [{}, {"Docker-Content-Digest": "garbage"}, {"Docker-Content-Digest": "blake3:" + "a" * 64}],
        ids=["no header", "garbage", "unsupported"],
    )
    async def test_the_digest_of_a_tag_is_computed_where_the_registry_names_none(self, headers: dict[str, str]) -> None:
        _, repository = script(Answer(200, headers, RAW))
        assert await repository.manifest("v1") == Served(RAW, "", DIGEST)

    async def test_a_tag_is_verified_with_the_algorithm_that_the_registry_names(self) -> None:
        _, repository = script(Answer(200, {"Docker-Content-Digest": str(SHA512)}, RAW))
        assert (await repository.manifest("v1")).digest == SHA512

    @pytest.mark.parametrize("digest", [OTHER, Digest.of(b"other", "sha512")], ids=["sha256", "sha512"])
    async def test_a_tag_that_isnt_what_the_registry_says_is_refused(self, digest: Digest) -> None:
        transport, repository = script(Answer(200, {**HEAD, "Docker-Content-Digest": str(digest)}, RAW))
        with pytest.raises(DigestMismatch):
            await repository.manifest("v1")
        transport.assert_done()

    @pytest.mark.parametrize("pinned", [DIGEST, SHA512], ids=["sha256", "sha512"])
    @pytest.mark.parametrize("named", [None, DIGEST, SHA512, OTHER], ids=["none", "sha256", "sha512", "wrong"])
    async def test_the_bytes_decide_what_is_pinned_and_no_header(self, pinned: Digest, named: Digest | None) -> None:
        headers = {} if named is None else {"Docker-Content-Digest": str(named)}
        _, repository = script(Answer(200, headers, RAW))
        assert (await repository.manifest(str(pinned))).digest == pinned

    async def test_a_header_never_excuses_the_wrong_bytes(self) -> None:
        _, repository = script(Answer(200, {**HEAD, "Content-Length": "4"}, b"evil"))
        with pytest.raises(DigestMismatch, match=f"instead of {DIGEST}"):
            await repository.manifest(str(DIGEST))

    async def test_a_body_that_ends_with_its_connection_may_have_been_cut(self) -> None:
        _, repository = script(Answer(200, {"Docker-Content-Digest": str(DIGEST)}, RAW[:10]))
        with pytest.raises(BodyInterrupted):
            await repository.manifest("v1")

    async def test_it_has_four_mebibytes_at_most(self) -> None:
        answer = Answer(200, {}, b" " * (MANIFEST_LIMIT + 10 * CHUNK))
        transport, repository = script(answer)
        with pytest.raises(ProtocolError, match=f"more than {MANIFEST_LIMIT}"):
            await repository.manifest("v1")
        assert answer.taken <= MANIFEST_LIMIT + CHUNK
        transport.assert_done()

    async def test_a_body_that_is_cut_is_the_callers(self) -> None:
        transport, repository = script(Answer(200, HEAD, RAW[:5], error=BodyInterrupted("lost")))
        with pytest.raises(BodyInterrupted):
            await repository.manifest("v1")
        transport.assert_done()

    @pytest.mark.parametrize("status", [201, 204, 206, 304, 307, 400, 410, 503])
    async def test_anything_but_200_is_a_refusal(self, status: int) -> None:
        transport, repository = script(Answer(status, HEAD, RAW))
        with pytest.raises(RegistryError) as caught:
            await repository.manifest("v1")
        assert caught.value.status == status
        transport.assert_done()


class TestBlobs:
    async def test_whoever_reads_one_gets_an_open_answer(self) -> None:
        answer = Answer(200, body=b"content")
        transport, repository = script(answer)

        async def read(response: Response, attempts: Attempts) -> bytes:
            assert not answer.is_closed
            return await response.read(100)

        assert await repository.blob(DIGEST, read) == b"content"
        assert transport.asked == [("GET", f"{BASE}/blobs/{DIGEST}")]
        transport.assert_done()

    @pytest.mark.parametrize("status", [204, 304, 404, 416, 500])
    async def test_a_refused_blob_is_closed(self, status: int) -> None:
        transport, repository = script(Answer(status))
        with pytest.raises(RegistryError, match=f"blob {DIGEST}"):
            await repository.blob(DIGEST, whole)
        transport.assert_done()


class TestRefusals:
    async def refused(self, answer: Answer) -> RegistryError:
        transport, repository = script(answer)
        with pytest.raises(RegistryError) as caught:
            await repository.manifest("v1")
        transport.assert_done()
        return caught.value

    @pytest.mark.parametrize(
        ("status", "kind", "hint"),
        [
            (400, RegistryError, ""),
            (401, Unauthorized, "lading login ghcr.io,"),
            (403, Denied, "access"),
            (404, NotFound, "check the name"),
            (405, RegistryError, ""),
            (429, RateLimited, "wait, or sign in"),
            (500, RegistryError, "try again later"),
            (503, RegistryError, "try again later"),
        ],
    )
    async def test_the_status_decides_the_type(self, status: int, kind: type[RegistryError], hint: str) -> None:
        error = await self.refused(Answer(status))
        assert type(error) is kind
        assert (error.method, error.url, error.status, error.codes) == ("GET", f"{BASE}/manifests/v1", status, ())
        assert f"ghcr.io/acme/triage:v1: GET answered {status}" in str(error)
        assert hint in error.hint

    async def test_how_long_to_wait_is_said(self) -> None:
        error = await self.refused(Answer(429, {"Retry-After": "3600"}))
        assert error.hint == "wait 3600 s, or sign in for a higher limit"

    async def test_a_blob_that_is_gone_isnt_a_matter_of_names(self) -> None:
        descriptor = Descriptor("a/b", DIGEST, 10)
        transport, repository = script(*[Answer(404) for _ in range(4)])
        for ask in (
            repository.blob(DIGEST, whole),
            repository.blob_beside(DIGEST, whole, dict),
            repository.require_blob(DIGEST),
            repository.open_part(descriptor),
        ):
            with pytest.raises(NotFound, match="push it again"):
                await ask
        transport.assert_done()

    async def test_the_codes_and_messages_of_the_body(self) -> None:
        body = errors({"code": "MANIFEST_UNKNOWN", "message": "no such tag", "detail": {"Tag": "v1"}}, {"code": "X"})
        error = await self.refused(Answer(404, {}, body))
        assert error.codes == ("MANIFEST_UNKNOWN", "X")
        assert "404: MANIFEST_UNKNOWN no such tag; X" in str(error)

    async def test_a_denial_names_what_was_needed(self) -> None:
        assert "repository:acme/triage:pull" in str(await self.refused(Answer(403)))

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"<html>nginx</html>",
            b"\xff\xfe",
            b"[]",
            b"null",
            b'"x"',
            b"{}",
            b'{"errors": null}',
            b'{"errors": {"code": "X"}}',
            b'{"errors": [null, 5, "x", [], {}]}',
            b'{"errors": [{"code": 5, "message": null}]}',
            b"[" * 8000,
            b"1" * 8000,
            gzip.compress(b'{"errors": []}', mtime=0),
        ],
    )
    async def test_a_body_without_codes_is_no_harm(self, body: bytes) -> None:
        error = await self.refused(Answer(500, {}, body))
        assert error.codes == ()
        assert str(error) == "ghcr.io/acme/triage:v1: GET answered 500 (try again later)"

    async def test_only_eight_kibibytes_of_a_body_are_read(self) -> None:
        answer = Answer(500, {}, b" " * 10_000_000)
        assert (await self.refused(answer)).codes == ()
        assert answer.taken <= 8 * 1024 + CHUNK

    async def test_only_eight_entries_are_shown(self) -> None:
        error = await self.refused(Answer(500, {}, errors(*({"code": f"C{n}"} for n in range(100)))))
        assert error.codes == tuple(f"C{n}" for n in range(8))

    @pytest.mark.parametrize("cause", [BodyInterrupted("lost"), TlsFailed("record")])
    async def test_a_body_that_fails_is_no_body(self, cause: BodyInterrupted | TlsFailed) -> None:
        error = await self.refused(Answer(404, {}, b'{"errors"', error=cause))
        assert isinstance(error, NotFound)

    async def test_what_a_registry_says_cant_drive_a_terminal(self) -> None:
        hostile = "\x1b]0;pwned\x07\x9b2J\u202e\r\n"
        error = await self.refused(Answer(404, {}, errors({"code": hostile, "message": hostile})))
        assert str(error).isprintable()
        assert all(code.isprintable() for code in error.codes)

    async def test_what_a_registry_repeats_of_a_url_has_lost_its_secrets(self) -> None:
        said = "see https://user:hunter2@cdn.example/x?sig=hunter2"
        error = await self.refused(Answer(404, {}, errors({"message": said})))
        assert "hunter2" not in str(error)
        assert "https://cdn.example/x?…" in str(error)

    async def test_no_answer_is_the_callers(self) -> None:
        _, repository = script(ConnectFailed("refused"))
        with pytest.raises(ConnectFailed):
            await repository.manifest("v1")


class TestRetryAfter:
    @pytest.mark.parametrize(("value", "seconds"), [("0", 0), ("7", 7), (" 120 ", 120), ("999999999", 999_999_999)])
    async def test_seconds(self, value: str, seconds: float) -> None:
        transport, repository = script(Answer(429, {"Retry-After": value}))
        with pytest.raises(RateLimited) as caught:
            await repository.manifest("v1")
        assert caught.value.retry_after == seconds
        transport.assert_done()

    @pytest.mark.parametrize("zone", ["GMT", "+0000", "-0000"])
    def test_a_date(self, zone: str) -> None:
        date = format_datetime(datetime.now(UTC) + timedelta(seconds=100)).replace("+0000", zone)
        seconds = retry_after(Headers([("Retry-After", date)]))
        assert seconds is not None
        assert 90 < seconds <= 100

    def test_a_date_in_the_past_is_now(self) -> None:
        assert retry_after(Headers([("Retry-After", "Wed, 21 Oct 2015 07:28:00 GMT")])) == 0

    @pytest.mark.parametrize(
        "value",
        ["", "soon", "-1", "1.5", "1e5", "NaN", "١٢", "²", "9" * 5000, "Wed, 99 Oct 2015 07:28:00 GMT", "Wed,", "\0"],
    )
    def test_garbage_is_none(self, value: str) -> None:
        assert retry_after(Headers([("Retry-After", value)])) is None

    def test_no_header_is_none(self) -> None:
        assert retry_after(Headers()) is None

    @given(st.text() | st.text(alphabet="0123456789:,+- MonJanGMT"))
    def test_arbitrary_text_gives_seconds_or_none(self, value: str) -> None:
        seconds = retry_after(Headers([("Retry-After", value)]))
        assert seconds is None or seconds >= 0


def page(*tags: str, link: str = "", url: str = "") -> Answer:
    headers = {"Link": f'<{link}>; rel="next"'} if link else {}
    return Answer(200, headers, json.dumps({"name": "acme/triage", "tags": tags}).encode(), url=url)


class TestTags:
    async def test_one_page(self) -> None:
        transport, repository = script(page("b", "a", "c"))
        assert [tag async for tag in repository.tags()] == ["b", "a", "c"]
        assert transport.asked == [("GET", f"{BASE}/tags/list")]
        transport.assert_done()

    async def test_page_by_page(self) -> None:
        transport, repository = script(
            page("a", link="/v2/acme/triage/tags/list?last=a"), page(link="?last=b&x=%2F"), page("c")
        )
        assert [tag async for tag in repository.tags()] == ["a", "c"]
        assert [url for _, url in transport.asked] == [
            f"{BASE}/tags/list",
            f"{BASE}/tags/list?last=a",
            f"{BASE}/tags/list?last=b&x=%2F",
        ]
        transport.assert_done()

    async def test_the_next_page_is_asked_for_when_it_is_needed(self) -> None:
        transport, repository = script(page("a", link="?last=a"))
        async for _ in repository.tags():
            break
        transport.assert_done()

    async def test_a_link_is_resolved_against_what_answered(self) -> None:
        transport, repository = script(page("a", link="?last=a", url="https://mirror.example/tags"), page())
        assert [tag async for tag in repository.tags()] == ["a"]
        request = transport.requests[1]
        assert request.url == "https://mirror.example/tags?last=a"
        assert request.authority == Origin("https", "ghcr.io", 443)

    @pytest.mark.parametrize("body", [b'{"tags": null}', b'{"tags": []}', b"{}"])
    async def test_no_tags(self, body: bytes) -> None:
        _, repository = script(Answer(200, {}, body))
        assert [tag async for tag in repository.tags()] == []

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"<html>",
            b"[]",
            b'{"tags": "a"}',
            b'{"tags": {"a": 1}}',
            b'{"tags": [1]}',
            b'{"tags": [null]}',
            b"[" * 9999,
        ],
    )
    async def test_what_isnt_a_list_of_tags_is_refused(self, body: bytes) -> None:
        transport, repository = script(Answer(200, {}, body))
        with pytest.raises(ProtocolError, match="list of tags"):
            assert [tag async for tag in repository.tags()]
        transport.assert_done()

    @pytest.mark.parametrize("link", ["https://evil.example/v2/", "http://ghcr.io/v2/", "https://ghcr.io:8443/v2/"])
    async def test_another_origin_is_never_asked(self, link: str) -> None:
        transport, repository = script(page("a", link=link))
        with pytest.raises(ProtocolError, match="another origin"):
            assert [tag async for tag in repository.tags()]
        transport.assert_done()

    @pytest.mark.parametrize("links", [["?a"], ["?a", "?b"], [f"{BASE}/tags/list"]], ids=["itself", "two", "the first"])
    async def test_a_circle_of_pages_ends(self, links: list[str]) -> None:
        transport, repository = script(*[page("a", link=links[turn % len(links)]) for turn in range(5)])
        with pytest.raises(ProtocolError, match="don't end"):
            assert [tag async for tag in repository.tags()]
        assert len(transport.requests) <= 3

    async def test_a_page_has_four_mebibytes_at_most(self) -> None:
        transport, repository = script(Answer(200, {}, b" " * (4 * 1024 * 1024 + 1)))
        with pytest.raises(ProtocolError, match="more than"):
            assert [tag async for tag in repository.tags()]
        transport.assert_done()

    async def test_a_refused_page_is_typed(self) -> None:
        transport, repository = script(page("a", link="?last=a"), Answer(401))
        with pytest.raises(Unauthorized, match="tags"):
            assert [tag async for tag in repository.tags()]
        transport.assert_done()


class TestWarnings:
    async def heard(self, *lines: str, times: int = 1, caplog: pytest.LogCaptureFixture) -> list[str]:
        answers = [Answer(200, [*HEAD.items(), *(("Warning", line) for line in lines)]) for _ in range(times)]
        _, repository = script(*answers)
        with caplog.at_level(logging.WARNING, "lading.registry"):
            for _ in range(times):
                await repository.resolve("v1")
        return [record.getMessage() for record in caplog.records]

    async def test_a_warning_is_logged_once(self, caplog: pytest.LogCaptureFixture) -> None:
        heard = await self.heard('299 - "v1 is deprecated"', times=3, caplog=caplog)
        assert heard == ["ghcr.io says: v1 is deprecated"]

    async def test_each_warning_is_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        heard = await self.heard('299 - "a"', '299 - "b", 299 reg.example "c"', caplog=caplog)
        assert heard == ["ghcr.io says: a", "ghcr.io says: b", "ghcr.io says: c"]

    @pytest.mark.parametrize("line", ["", "deprecated", '199 - "old"', "299 -", '299 - "open', "299 - text"])
    async def test_nothing_else_is(self, line: str, caplog: pytest.LogCaptureFixture) -> None:
        assert await self.heard(line, caplog=caplog) == []

    async def test_a_warning_cant_drive_a_terminal(self, caplog: pytest.LogCaptureFixture) -> None:
        (heard,) = await self.heard('299 - "\x1b[2J\u202e"', caplog=caplog)
        assert heard.isprintable()

    async def test_two_registries_may_say_the_same(self, caplog: pytest.LogCaptureFixture) -> None:
        warned: set[str] = set()
        for registry in ("ghcr.io", "quay.io"):
            transport = ScriptedTransport(Answer(200, {**HEAD, "Warning": '299 - "a"'}))
            await Repository(transport, endpoints(registry), "acme/triage", warned).resolve("v1")
        assert [record.getMessage() for record in caplog.records] == ["ghcr.io says: a", "quay.io says: a"]

    async def test_a_warning_comes_with_a_refusal_too(self, caplog: pytest.LogCaptureFixture) -> None:
        _, repository = script(Answer(404, {"Warning": '299 - "gone soon"'}))
        with pytest.raises(NotFound):
            await repository.manifest("v1")
        assert "ghcr.io says: gone soon" in caplog.text


class Sleeps(list[float]):
    """Remembers how long somebody would have slept."""

    async def __call__(self, seconds: float) -> None:
        self.append(seconds)


class TestPatience:
    async def test_a_body_that_was_cut_is_asked_for_again_within_the_operations_patience(self) -> None:
        cut = BodyInterrupted("cut")
        answers = [Answer(200, HEAD, b"{", error=cut), Answer(200, HEAD, b"", error=cut), Answer(200, HEAD, RAW)]
        transport, sleeps = ScriptedTransport(*answers), Sleeps()
        begun = [Attempts(Retry(attempts=3), sleep=sleeps)]
        repository = Repository(transport, endpoints("ghcr.io"), "acme/triage", set(), begun.pop)
        assert (await repository.manifest("v1")).raw == RAW
        assert len(sleeps) == 2
        assert len({id(request.attempts) for request in transport.requests}) == 1
        transport.assert_done()

    async def test_which_ends(self) -> None:
        cut = BodyInterrupted("cut")
        transport, sleeps = ScriptedTransport(*[Answer(200, error=cut) for _ in range(3)]), Sleeps()
        repository = Repository(
            transport, endpoints("ghcr.io"), "acme/triage", set(), lambda: Attempts(Retry(attempts=3), sleep=sleeps)
        )
        with pytest.raises(BodyInterrupted):
            await repository.blob(DIGEST, whole)
        transport.assert_done()


MIRROR, SECOND = "https://mirror.example:5000", "http://second.example/cache"
SERVER_BASE = "https://registry-1.docker.io/v2/acme/triage"
MIRROR_BASE, SECOND_BASE = f"{MIRROR}/v2/acme/triage", f"{SECOND}/v2/acme/triage"
NS = "?ns=docker.io"


class TestMirrors:
    def behind(
        self, *answers: Answer | ConnectFailed, first: str = "pull resolve", second: str = "pull"
    ) -> tuple[ScriptedTransport, Repository]:
        """A repository of Docker Hub with two mirrors, which may do this."""
        self.now = 0.0
        hosts = RegistryHosts(
            Host("https://registry-1.docker.io"), (Host(MIRROR, first.split()), Host(SECOND, second.split()))
        )
        transport = ScriptedTransport(*answers)
        return transport, Repository(transport, Endpoints("docker.io", hosts, lambda: self.now), "acme/triage", set())

    async def test_bytes_of_a_known_digest_come_from_the_first(self) -> None:
        transport, repository = self.behind(Answer(200, HEAD, RAW), Answer(200, body=b"content"))
        await repository.manifest(str(DIGEST))
        await repository.blob(DIGEST, whole)
        assert [url for _, url in transport.asked] == [
            f"{MIRROR_BASE}/manifests/{DIGEST}{NS}",
            f"{MIRROR_BASE}/blobs/{DIGEST}{NS}",
        ]
        transport.assert_done()

    async def test_what_a_tag_stands_for_says_only_who_may(self) -> None:
        transport, repository = self.behind(Answer(200, HEAD), Answer(200, HEAD, RAW), first="pull")
        await repository.resolve("v1")
        await repository.manifest("v1")
        assert [url for _, url in transport.asked] == [f"{SERVER_BASE}/manifests/v1"] * 2
        transport, repository = self.behind(Answer(404), Answer(200, HEAD))
        await repository.resolve("v1")
        assert [url for _, url in transport.asked] == [
            f"{MIRROR_BASE}/manifests/v1{NS}",
            f"{SERVER_BASE}/manifests/v1",
        ]

    async def test_the_credentials_of_each_are_its_own(self) -> None:
        transport, repository = self.behind(Answer(404), Answer(401), Answer(200, HEAD, RAW))
        await repository.manifest(str(DIGEST))
        assert [(request.registry, request.authority) for request in transport.requests] == [
            ("mirror.example:5000", Origin("https", "mirror.example", 5000)),
            ("second.example", Origin("http", "second.example", 80)),
            ("docker.io", Origin("https", "registry-1.docker.io", 443)),
        ]
        transport.assert_done()

    @pytest.mark.parametrize(
        "answer",
        [
            ConnectFailed("down"),
            Answer(500),
            Answer(429),
            Answer(200, HEAD, b"other bytes"),
            Answer(200, HEAD, RAW[:4], error=BodyInterrupted("cut")),
        ],
        ids=["down", "500", "429", "wrong bytes", "cut"],
    )
    async def test_one_that_fails_is_left_alone_for_a_while_and_never_asked_twice(
        self, answer: Answer | ConnectFailed, caplog: pytest.LogCaptureFixture
    ) -> None:
        good = [Answer(200, HEAD, RAW) for _ in range(4)]
        transport, repository = self.behind(answer, *good)
        for now in (0, 29):
            self.now = now
            assert (await repository.manifest(str(DIGEST))).raw == RAW
        assert [url.partition("/v2")[0] for _, url in transport.asked] == [MIRROR, SECOND, SECOND]
        self.now = 31
        await repository.manifest(str(DIGEST))
        await repository.manifest(str(DIGEST))
        assert [url.partition("/v2")[0] for _, url in transport.asked[3:]] == [MIRROR, MIRROR]
        assert [record.levelname for record in caplog.records] == ["WARNING"]

    async def test_one_that_goes_on_failing_is_left_alone_for_longer(self) -> None:
        transport, repository = self.behind(
            ConnectFailed("down"), Answer(200, HEAD, RAW), ConnectFailed("down"), *[Answer(200, HEAD, RAW)] * 3
        )
        for now in (0, 31, 31 + 59, 31 + 61):
            self.now = now
            await repository.manifest(str(DIGEST))
        assert [url.partition("/v2")[0] for _, url in transport.asked] == [
            MIRROR,
            SECOND,
            MIRROR,
            SECOND,
            SECOND,
            MIRROR,
        ]

    @pytest.mark.parametrize("status", [401, 403, 404])
    async def test_one_that_doesnt_have_it_is_asked_for_the_next_thing(self, status: int) -> None:
        transport, repository = self.behind(Answer(status), *[Answer(200, HEAD, RAW)] * 2)
        await repository.manifest(str(DIGEST))
        await repository.manifest(str(DIGEST))
        assert [url.partition("/v2")[0] for _, url in transport.asked] == [MIRROR, SECOND, MIRROR]

    async def test_the_registrys_own_answer_is_the_last_word(self) -> None:
        _, repository = self.behind(Answer(403), Answer(500), Answer(404))
        with pytest.raises(NotFound):
            await repository.manifest(str(DIGEST))

    async def test_what_the_mirrors_said_is_said_too(self) -> None:
        _, repository = self.behind(Answer(403), ConnectFailed("GET http://second.example/: refused"), Answer(404))
        with pytest.raises(NotFound) as caught:
            await repository.manifest(str(DIGEST))
        assert caught.value.message.endswith(
            f": GET answered 404 (mirror {MIRROR}/v2 answered 403; mirror {SECOND}/v2 failed: "
            "GET http://second.example/: refused)"
        )

    async def test_a_mirror_that_isnt_asked_for_a_while_is_named(self) -> None:
        _, repository = self.behind(Answer(503), Answer(200, HEAD, RAW), Answer(404), Answer(404))
        await repository.manifest(str(DIGEST))
        with pytest.raises(NotFound) as caught:
            await repository.manifest(str(DIGEST))
        assert caught.value.message.endswith(
            f" (mirror {MIRROR}/v2 isn't asked for a while: it answered 503; mirror {SECOND}/v2 answered 404)"
        )
        _, repository = self.behind(Answer(404), second="push", first="pull")
        with pytest.raises(NotFound) as caught:
            await repository.manifest("v1")
        assert caught.value.message.endswith("answered 404"), "nobody else was asked for what a tag stands for"

    async def test_a_part_beside_others_is_asked_for_once_and_held_against_nobody(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        transport, repository = self.behind(Answer(503), Answer(200, body=b"content"))
        with pytest.raises(RegistryError, match="503"):
            await repository.blob_beside(DIGEST, whole, dict)
        await repository.blob(DIGEST, whole)
        assert [url.partition("/v2")[0] for _, url in transport.asked] == [MIRROR, MIRROR]
        assert caplog.messages == []

    async def test_tags_are_the_registrys(self) -> None:
        transport, repository = self.behind(Answer(200, body=b'{"tags": ["v1"]}'))
        assert [tag async for tag in repository.tags()] == ["v1"]
        assert transport.asked == [("GET", f"{SERVER_BASE}/tags/list")]
