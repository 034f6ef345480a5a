"""Writing to a repository, against a scripted registry."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

import anyio
import pytest
from scripted import Answer, ScriptedTransport

from lading.errors import (
    ConnectFailed,
    Denied,
    DigestMismatch,
    LadingError,
    NotFound,
    ProtocolError,
    RegistryError,
    SizeMismatch,
)
from lading.http.hosts import HostsConfig
from lading.http.retry import Attempts, Retry
from lading.http.transport import Origin, Request, Stream
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest
from lading.oci.media_types import OCI_MANIFEST
from lading.registry.endpoints import Endpoints
from lading.registry.upload import Upload

CONTENT = b"agents: {}\n"
BLOB = Descriptor("application/yaml", Digest.of(CONTENT), len(CONTENT))
QUOTED = f"sha256%3A{BLOB.digest.encoded}"
BASE = "https://ghcr.io/v2/acme/triage"
RAW = b'{"schemaVersion": 2}'


def script(*answers: Answer | LadingError, registry: str = "ghcr.io") -> tuple[ScriptedTransport, Upload]:
    transport = ScriptedTransport(*answers)
    return transport, Upload(transport, Endpoints(registry, HostsConfig().lookup(registry)), "acme/triage")


class TestBlob:
    async def test_one_that_is_there_isnt_sent(self) -> None:
        transport, upload = script(Answer(200))
        await upload.blob(BLOB, CONTENT)
        assert transport.asked == [("HEAD", f"{BASE}/blobs/{BLOB.digest}")]
        transport.assert_done()

    async def test_one_that_isnt_is_sent_with_a_post_and_a_put(self) -> None:
        transport, upload = script(
            Answer(404), Answer(202, {"Location": "/v2/acme/triage/blobs/uploads/1"}), Answer(201)
        )
        await upload.blob(BLOB, CONTENT)
        assert transport.asked == [
            ("HEAD", f"{BASE}/blobs/{BLOB.digest}"),
            ("POST", f"{BASE}/blobs/uploads/"),
            ("PUT", f"{BASE}/blobs/uploads/1?digest={QUOTED}"),
        ]
        _, post, put = transport.requests
        assert (post.headers, post.body) == ({"Content-Length": "0"}, None)
        assert put.headers == {"Content-Type": "application/octet-stream", "Content-Length": str(len(CONTENT))}
        assert put.body == CONTENT
        transport.assert_done()

    @pytest.mark.parametrize(
        ("location", "target"),
        [
            (f"{BASE}/blobs/uploads/1", f"{BASE}/blobs/uploads/1?digest={QUOTED}"),
            ("/v2/acme/triage/blobs/uploads/1", f"{BASE}/blobs/uploads/1?digest={QUOTED}"),
            ("1", f"{BASE}/blobs/uploads/1?digest={QUOTED}"),
            ("//ghcr.io/up", f"https://ghcr.io/up?digest={QUOTED}"),
            ("/up?_state=a%2Fb%3D&x", f"https://ghcr.io/up?_state=a%2Fb%3D&x&digest={QUOTED}"),
            ("/up?state=1#fragment", f"https://ghcr.io/up?state=1&digest={QUOTED}"),
            ("/up#fragment", f"https://ghcr.io/up?digest={QUOTED}"),
            ("https://storage.example/up?sig=%2B", f"https://storage.example/up?sig=%2B&digest={QUOTED}"),
        ],
    )
    async def test_the_location_is_opaque(self, location: str, target: str) -> None:
        transport, upload = script(Answer(404), Answer(202, {"Location": location}), Answer(201))
        await upload.blob(BLOB, CONTENT)
        assert transport.requests[2].url == target
        assert transport.requests[2].authority == Origin("https", "ghcr.io", 443)

    async def test_the_location_is_resolved_against_what_answered(self) -> None:
        transport, upload = script(
            Answer(404), Answer(202, {"Location": "/up"}, url="https://eu.ghcr.io/v2/x"), Answer(201)
        )
        await upload.blob(BLOB, CONTENT)
        assert transport.requests[2].url == f"https://eu.ghcr.io/up?digest={QUOTED}"

    @pytest.mark.parametrize(
        "location",
        [
            "",
            "http://ghcr.io/up?token=hunter2",
            "http://169.254.169.254/",
            "ftp://ghcr.io/up",
            "file:///tmp/x",
            "https://user:hunter2@ghcr.io/up",
            "/up load",
            "/up\r\nX-Evil: 1",
            "/é",
            "http://[::1",
            "https://ghcr.io:99999/up",
        ],
    )
    async def test_a_location_that_isnt_safe_gets_nothing(self, location: str) -> None:
        transport, upload = script(Answer(404), Answer(202, {"Location": location}))
        with pytest.raises(ProtocolError) as caught:
            await upload.blob(BLOB, CONTENT)
        assert "hunter2" not in str(caught.value)
        transport.assert_done()

    async def test_no_location_is_said(self) -> None:
        transport, upload = script(Answer(404), Answer(202))
        with pytest.raises(ProtocolError, match="no Location"):
            await upload.blob(BLOB, CONTENT)
        transport.assert_done()

    async def test_a_loopback_registry_may_stay_on_http(self) -> None:
        transport, upload = script(
            Answer(404), Answer(202, {"Location": "http://localhost:5000/up"}), Answer(201), registry="localhost:5000"
        )
        await upload.blob(BLOB, CONTENT)
        assert transport.requests[2].url == f"http://localhost:5000/up?digest={QUOTED}"

    @pytest.mark.parametrize("step", [0, 1, 2], ids=["HEAD", "POST", "PUT"])
    @pytest.mark.parametrize("status", [400, 401, 403, 413, 429, 500])
    async def test_a_refusal_at_any_step_is_typed(self, step: int, status: int) -> None:
        body = json.dumps({"errors": [{"code": "DENIED", "message": "no"}]}).encode()
        steps = [Answer(404), Answer(202, {"Location": "/up"}), Answer(201)]
        transport, upload = script(*steps[:step], Answer(status, {}, body))
        with pytest.raises(RegistryError, match=rf"ghcr\.io/acme/triage.*{BLOB.digest}") as caught:
            await upload.blob(BLOB, CONTENT)
        assert caught.value.status == status
        assert caught.value.codes == ("DENIED",)
        transport.assert_done()

    async def test_a_denial_names_repository_and_action(self) -> None:
        _, upload = script(Answer(404), Answer(403))
        with pytest.raises(Denied, match="repository:acme/triage:pull,push"):
            await upload.blob(BLOB, CONTENT)

    async def test_an_upload_that_is_created_at_once_isnt_one(self) -> None:
        _, upload = script(Answer(404), Answer(201, {"Location": "/up"}))
        with pytest.raises(RegistryError, match="answered 201"):
            await upload.blob(BLOB, CONTENT)

    async def test_no_answer_is_the_callers(self) -> None:
        transport, upload = script(Answer(404), Answer(202, {"Location": "/up"}), ConnectFailed("lost"))
        with pytest.raises(ConnectFailed):
            await upload.blob(BLOB, CONTENT)
        transport.assert_done()


class TestMount:
    async def test_a_mounted_blob_isnt_sent(self) -> None:
        transport, upload = script(Answer(404), Answer(201))
        await upload.blob(BLOB, CONTENT, mount_from="other/repo")
        assert transport.asked[1] == ("POST", f"{BASE}/blobs/uploads/?mount={QUOTED}&from=other%2Frepo")
        transport.assert_done()

    async def test_a_blob_that_isnt_mounted_is_sent_to_the_upload_that_came_instead(self) -> None:
        transport, upload = script(Answer(404), Answer(202, {"Location": "/up"}), Answer(201))
        await upload.blob(BLOB, CONTENT, mount_from="other/repo")
        assert transport.asked[2] == ("PUT", f"https://ghcr.io/up?digest={QUOTED}")
        assert transport.requests[2].body == CONTENT
        transport.assert_done()

    async def test_one_that_is_there_isnt_mounted(self) -> None:
        transport, upload = script(Answer(200))
        await upload.blob(BLOB, CONTENT, mount_from="other/repo")
        transport.assert_done()

    async def test_where_not_even_a_token_is_given_for_it_the_blob_is_sent(self) -> None:
        refused = Denied("the token server: no", status=403)
        transport, upload = script(Answer(404), refused, Answer(202, {"Location": "/up"}), Answer(201))
        assert await upload.blob(BLOB, CONTENT, mount_from="other/repo") == "sent"
        transport.assert_done()

    async def test_only_the_mount_asks_to_read_the_other_repository(self) -> None:
        transport, upload = script(Answer(404), Answer(202, {"Location": "/up"}), Answer(201))
        await upload.blob(BLOB, CONTENT, mount_from="other/repo")
        own = "repository:acme/triage:pull,push"
        assert [request.scopes for request in transport.requests] == [
            (own,),
            (own, "repository:other/repo:pull"),
            (own,),
        ]


class TestManifest:
    @pytest.mark.parametrize("selector", ["v1", str(Digest.of(RAW))], ids=["tag", "digest"])
    @pytest.mark.parametrize("status", [201, 202])
    async def test_it_is_put_as_it_is(self, selector: str, status: int) -> None:
        transport, upload = script(Answer(status, {"Docker-Content-Digest": str(Digest.of(RAW))}))
        await upload.manifest(selector, RAW, OCI_MANIFEST)
        (request,) = transport.requests
        assert (request.method, request.url) == ("PUT", f"{BASE}/manifests/{selector}")
        assert (request.headers, request.body) == ({"Content-Type": OCI_MANIFEST}, RAW)
        transport.assert_done()

    @pytest.mark.parametrize("digest", [None, "garbage", str(Digest.of(RAW, "sha512"))])
    async def test_the_registry_neednt_say_what_it_stored(self, digest: str | None) -> None:
        transport, upload = script(Answer(201, {} if digest is None else {"Docker-Content-Digest": digest}))
        await upload.manifest("v1", RAW, OCI_MANIFEST)
        transport.assert_done()

    async def test_a_registry_that_stored_something_else_is_found_out(self) -> None:
        transport, upload = script(Answer(201, {"Docker-Content-Digest": str(Digest.of(b"other"))}))
        with pytest.raises(DigestMismatch, match=f"instead of {Digest.of(RAW)}"):
            await upload.manifest("v1", RAW, OCI_MANIFEST)
        transport.assert_done()

    @pytest.mark.parametrize("status", [200, 307, 400, 404, 413, 500])
    async def test_a_refusal_is_typed(self, status: int) -> None:
        transport, upload = script(Answer(status))
        with pytest.raises(RegistryError, match=rf"ghcr\.io/acme/triage:v1: PUT answered {status}"):
            await upload.manifest("v1", RAW, OCI_MANIFEST)
        transport.assert_done()


PIECE = 64 * 1024
LARGE = bytes(range(256)) * (4 * PIECE // 256) + b"the end"
"""Four pieces and seven bytes."""

LARGE_BLOB = Descriptor("application/octet-stream", Digest.of(LARGE), len(LARGE))
LARGE_QUOTED = f"sha256%3A{LARGE_BLOB.digest.encoded}"
UPLOAD = "https://ghcr.io/up"

UNREACHED = Answer(201)
"""To a request whose body fails before it is whole."""


@dataclass
class Took:
    """An answer, or the lack of one, after ``taken`` bytes of the request's body."""

    answer: Answer | LadingError
    taken: int | None = None


class Taking(ScriptedTransport):
    """A script whose requests have bodies that are read; ``bodies`` are what was read of each."""

    def __init__(self, *script: Answer | LadingError | Took) -> None:
        super().__init__(*(one.answer if isinstance(one, Took) else one for one in script))
        self._taken = [one.taken if isinstance(one, Took) else None for one in script]
        self.bodies: list[bytes] = []

    async def send(self, request: Request) -> Answer:
        limit, body = self._taken.pop(0), bytearray()
        if isinstance(request.body, Stream):
            chunks = request.body.open()
            while limit is None or len(body) < limit:
                try:
                    body += await anext(chunks)
                except StopAsyncIteration:
                    assert len(body) == request.body.length
                    break
                except BaseException:
                    await super().send(request)
                    raise
            await chunks.aclose()  # type: ignore[attr-defined]
            self.bodies.append(bytes(body if limit is None else body[:limit]))
        return await super().send(request)


class Cargo:
    """Content that is read in chunks; ``opened`` are the bytes from which it was."""

    def __init__(self, content: bytes = LARGE, chunk: int = 10_000, error: Exception | None = None) -> None:
        self.content = content
        self.chunk = chunk
        self.error = error
        self.opened: list[int] = []
        self.closed = 0

    async def __call__(self, start: int) -> AsyncIterator[bytes]:
        self.opened.append(start)
        try:
            for position in range(start, len(self.content), self.chunk):
                yield self.content[position : min(position + self.chunk, len(self.content))]
            if self.error is not None:
                raise self.error
        finally:
            self.closed += 1


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lading.registry.chunks.PIECE", PIECE)


def taking(*script: Answer | LadingError | Took, attempts: int = 4) -> tuple[Taking, Upload]:
    transport = Taking(*script)

    async def no_sleep(seconds: float) -> None:
        return None

    def begin() -> Attempts:
        return Attempts(Retry(attempts=attempts, first_delay=0.0), sleep=no_sleep)

    return transport, Upload(transport, Endpoints("ghcr.io", HostsConfig().lookup("ghcr.io")), "acme/triage", begin)


def begun(number: int = 0, minimum: str | None = None) -> Answer:
    headers = {} if minimum is None else {"OCI-Chunk-Min-Length": minimum}
    return Answer(202, {"Location": f"/up{number or ''}", **headers})


def status(end: int | str, location: str = "/up") -> Answer:
    return Answer(204, {"Location": location, "Range": f"0-{end}"})


class TestStream:
    async def test_one_that_is_there_isnt_read(self) -> None:
        transport, upload = taking(Answer(200))
        cargo = Cargo()
        assert await upload.stream(LARGE_BLOB, cargo) == "found"
        assert cargo.opened == []
        transport.assert_done()

    async def test_one_that_is_mounted_isnt_read(self) -> None:
        transport, upload = taking(Answer(404), Answer(201))
        cargo = Cargo()
        assert await upload.stream(LARGE_BLOB, cargo, mount_from="other/repo") == "mounted"
        assert cargo.opened == []
        transport.assert_done()

    async def test_one_that_isnt_is_read_once_and_sent_whole(self) -> None:
        transport, upload = taking(Answer(404), begun(), Answer(201))
        cargo, told = Cargo(), list[int]()
        assert await upload.stream(LARGE_BLOB, cargo, progress=told.append) == "sent"
        assert transport.asked == [
            ("HEAD", f"{BASE}/blobs/{LARGE_BLOB.digest}"),
            ("POST", f"{BASE}/blobs/uploads/"),
            ("PUT", f"{UPLOAD}?digest={LARGE_QUOTED}"),
        ]
        put = transport.requests[2]
        assert put.headers == {"Content-Type": "application/octet-stream", "Content-Length": str(len(LARGE))}
        assert isinstance(put.body, Stream)
        assert put.body.length == len(LARGE)
        assert transport.bodies == [LARGE]
        assert (cargo.opened, cargo.closed) == ([0], 1)
        assert told == [*range(10_000, len(LARGE), 10_000), len(LARGE)]
        transport.assert_done()

    @pytest.mark.parametrize("size", [0, 1, PIECE])
    async def test_sizes(self, size: int) -> None:
        content = LARGE[:size]
        transport, upload = taking(Answer(404), begun(), Answer(201))
        await upload.stream(Descriptor("a/b", Digest.of(content), size), Cargo(content))
        assert transport.bodies == [content]

    async def test_the_digest_may_be_a_sha512(self) -> None:
        transport, upload = taking(Answer(404), begun(), Answer(201))
        await upload.stream(Descriptor("a/b", Digest.of(LARGE, "sha512"), len(LARGE)), Cargo())
        assert transport.bodies == [LARGE]

    async def test_large_chunks_are_hashed_elsewhere(self) -> None:
        content = bytes(1_000_000)
        transport, upload = taking(Answer(404), begun(), Answer(201))
        await upload.stream(Descriptor("a/b", Digest.of(content), len(content)), Cargo(content, chunk=400_000))
        assert transport.bodies == [content]

    async def test_what_is_repeated_is_opened_again(self) -> None:
        transport, upload = taking(Answer(404), begun(), Answer(201))
        cargo = Cargo()
        await upload.stream(LARGE_BLOB, cargo)
        body = transport.requests[2].body
        assert isinstance(body, Stream)
        assert b"".join([chunk async for chunk in body.open()]) == LARGE
        assert cargo.opened == [0, 0]


class TestWrongContent:
    async def test_other_bytes_are_an_error_before_the_last_of_them_is_sent(self) -> None:
        transport, upload = taking(Answer(404), begun(), UNREACHED, Answer(204))
        cargo = Cargo(b"x" + LARGE[1:])
        with pytest.raises(DigestMismatch, match=f"ghcr.io/acme/triage: blob {LARGE_BLOB.digest}"):
            await upload.stream(LARGE_BLOB, cargo)
        assert transport.asked[-1] == ("DELETE", UPLOAD)
        assert cargo.closed == 1

    async def test_too_few(self) -> None:
        _, upload = taking(Answer(404), begun(), UNREACHED, Answer(204))
        with pytest.raises(SizeMismatch, match=f"only {len(LARGE) - 1} of {len(LARGE)} bytes"):
            await upload.stream(LARGE_BLOB, Cargo(LARGE[:-1]))

    async def test_too_many_arent_sent(self) -> None:
        transport, upload = taking(Answer(404), begun(), Answer(201))
        await upload.stream(LARGE_BLOB, Cargo(LARGE + b"more"))
        assert transport.bodies == [LARGE]

    @pytest.mark.parametrize("error", [ConnectFailed("the source"), NotFound("the source", status=404), OSError(5)])
    async def test_a_source_that_fails_isnt_the_registrys_failure(self, error: Exception) -> None:
        transport, upload = taking(Answer(404), begun(), UNREACHED, Answer(204))
        with pytest.raises(type(error)) as caught:
            await upload.stream(LARGE_BLOB, Cargo(LARGE[:100_000], error=error))
        assert caught.value is error
        assert [method for method, _ in transport.asked] == ["HEAD", "POST", "PUT", "DELETE"]


@pytest.mark.usefixtures("small_pieces")
class TestChunks:
    async def test_a_registry_that_wants_chunks_gets_them_in_order(self) -> None:
        transport, upload = taking(
            Answer(404),
            begun(minimum="10"),
            *(Answer(202, {"Location": f"/up{number}", "Range": f"0-{number * PIECE - 1}"}) for number in (1, 2, 3, 4)),
            Answer(202, {"Location": "/up5?state=x", "Range": f"0-{len(LARGE) - 1}"}),
            Answer(201),
        )
        cargo = Cargo()
        await upload.stream(LARGE_BLOB, cargo)
        assert transport.asked[2:] == [
            ("PATCH", UPLOAD),
            *(("PATCH", f"{UPLOAD}{number}") for number in (1, 2, 3, 4)),
            ("PUT", f"{UPLOAD}5?state=x&digest={LARGE_QUOTED}"),
        ]
        ends = [(start, min(start + PIECE, len(LARGE))) for start in range(0, len(LARGE), PIECE)]
        assert [dict(request.headers) for request in transport.requests[2:-1]] == [
            {
                "Content-Type": "application/octet-stream",
                "Content-Range": f"{start}-{end - 1}",
                "Content-Length": str(end - start),
            }
            for start, end in ends
        ]
        assert transport.bodies == [LARGE[start:end] for start, end in ends]
        assert transport.requests[-1].headers == {"Content-Length": "0"}
        assert (cargo.opened, cargo.closed) == ([0], 1), "one source for all of the pieces"
        transport.assert_done()

    async def test_a_piece_is_as_large_as_the_registry_wants_at_least(self) -> None:
        transport, upload = taking(Answer(404), begun(minimum=str(3 * PIECE)), Answer(202), Answer(202), Answer(201))
        await upload.stream(LARGE_BLOB, Cargo())
        assert [len(body) for body in transport.bodies] == [3 * PIECE, len(LARGE) - 3 * PIECE]

    @pytest.mark.parametrize("minimum", [str(len(LARGE)), "9" * 18, "0", "-5", "garbage", "1e3", "٣", "9" * 19])
    async def test_one_that_fits_into_a_chunk_or_a_header_that_says_nothing(self, minimum: str) -> None:
        transport, upload = taking(Answer(404), begun(minimum=minimum), Answer(201))
        await upload.stream(LARGE_BLOB, Cargo())
        assert transport.bodies == [LARGE]

    async def test_too_large_a_whole_is_sent_in_pieces(self) -> None:
        transport, upload = taking(
            Answer(404), begun(), Took(Answer(413), 20_000), Answer(204), begun(1), *[Answer(202)] * 5, Answer(201)
        )
        cargo = Cargo()
        await upload.stream(LARGE_BLOB, cargo)
        assert [method for method, _ in transport.asked] == (
            ["HEAD", "POST", "PUT", "DELETE", "POST", *["PATCH"] * 5, "PUT"]
        )
        assert b"".join(transport.bodies[1:]) == LARGE
        assert cargo.opened == [0, 0]

    async def test_too_large_a_piece_is_made_smaller(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("lading.registry.chunks._SMALLEST_PIECE", PIECE // 4)
        transport, upload = taking(
            Answer(404),
            begun(),
            Answer(413),
            Answer(204),
            begun(),
            Answer(202),
            Answer(413),
            status(PIECE - 1),
            *[Answer(202)] * 7,
            Answer(201),
        )
        await upload.stream(LARGE_BLOB, Cargo())
        sizes = [len(body) for body in transport.bodies[1:]]
        assert sizes == [PIECE, PIECE, *[PIECE // 2] * 6, 7]
        transport.assert_done()

    async def test_what_is_too_large_however_small_is_an_error(self) -> None:
        transport, upload = taking(
            Answer(404), begun(), Answer(413), Answer(204), begun(), Answer(413), Answer(204), attempts=1
        )
        with pytest.raises(RegistryError) as caught:
            await upload.stream(LARGE_BLOB, Cargo())
        assert caught.value.status == 413
        assert transport.asked[-1] == ("DELETE", UPLOAD)
        transport.assert_done()

    async def test_a_registry_that_takes_a_part_of_a_piece_gets_the_rest(self) -> None:
        transport, upload = taking(
            Answer(404),
            begun(minimum=str(3 * PIECE)),
            Answer(202, {"Range": "bytes=0-99999"}),
            Answer(202),
            Answer(201),
        )
        cargo = Cargo()
        await upload.stream(LARGE_BLOB, cargo)
        assert transport.requests[3].headers["Content-Range"] == f"100000-{len(LARGE) - 1}"
        assert transport.bodies[1] == LARGE[100_000:]
        assert cargo.opened == [0, 100_000]

    @pytest.mark.parametrize("said", ["garbage", "0-0", "5-9", "0-٣", f"0-{10 * PIECE}", ""])
    async def test_a_range_that_makes_no_sense_says_no_more_than_the_202(self, said: str) -> None:
        transport, upload = taking(
            Answer(404),
            begun(minimum=str(3 * PIECE)),
            Answer(202, {"Range": said}),
            Answer(202),
            Answer(201),
        )
        await upload.stream(LARGE_BLOB, Cargo())
        assert b"".join(transport.bodies) == LARGE

    @pytest.mark.parametrize("location", ["http://ghcr.io/up", "ftp://ghcr.io/up", "https://u:p@ghcr.io/up"])
    async def test_a_location_that_isnt_safe_gets_nothing(self, location: str) -> None:
        transport, upload = taking(Answer(404), begun(minimum="1"), Answer(202, {"Location": location}), Answer(204))
        with pytest.raises(ProtocolError):
            await upload.stream(LARGE_BLOB, Cargo())
        assert transport.asked[-1] == ("DELETE", UPLOAD)

    async def test_only_the_registry_itself_is_authorised(self) -> None:
        transport, upload = taking(
            Answer(404),
            begun(minimum=str(3 * PIECE)),
            Answer(202, {"Location": "https://storage.example/up"}),
            Answer(202),
            Answer(201),
        )
        await upload.stream(LARGE_BLOB, Cargo())
        assert transport.asked[3] == ("PATCH", "https://storage.example/up")
        assert {request.authority for request in transport.requests} == {Origin("https", "ghcr.io", 443)}

    async def test_a_closing_whose_answer_was_lost(self) -> None:
        transport, upload = taking(
            Answer(404), begun(minimum=str(3 * PIECE)), Answer(202), Answer(202),
            Answer(404), Answer(200),
        )  # fmt: skip
        await upload.stream(LARGE_BLOB, Cargo())
        assert transport.asked[-1][0] == "HEAD"
        transport.assert_done()


class TestGoingOn:
    LOST = ConnectFailed("lost")

    async def test_from_where_the_registry_has_got(self) -> None:
        transport, upload = taking(
            Answer(404), begun(), Took(self.LOST, 100_000), status(99_999, "/on"), Answer(202), Answer(201)
        )
        cargo = Cargo()
        await upload.stream(LARGE_BLOB, cargo)
        assert transport.asked[3:] == [
            ("GET", UPLOAD),
            ("PATCH", "https://ghcr.io/on"),
            ("PUT", f"https://ghcr.io/on?digest={LARGE_QUOTED}"),
        ]
        assert transport.requests[4].headers["Content-Range"] == f"100000-{len(LARGE) - 1}"
        assert transport.bodies[1] == LARGE[100_000:]
        assert cargo.opened == [0] if len(transport.bodies[0]) == 100_000 else [0, 100_000]
        transport.assert_done()

    async def test_the_source_is_opened_where_the_registry_has_got(self) -> None:
        transport, upload = taking(
            Answer(404), begun(), Took(self.LOST, 100_000), status(77_776), Answer(202), Answer(201)
        )
        cargo = Cargo()
        await upload.stream(LARGE_BLOB, cargo)
        assert (cargo.opened, cargo.closed) == ([0, 77_777], 2)
        assert transport.bodies[1] == LARGE[77_777:]

    async def test_what_is_read_again_may_not_hide_what_was_wrong_at_first(self) -> None:
        _, upload = taking(Answer(404), begun(), Took(self.LOST, 100_000), status(77_776), UNREACHED, Answer(204))
        with pytest.raises(DigestMismatch):
            await upload.stream(LARGE_BLOB, Cargo(b"x" + LARGE[1:]))

    async def test_when_it_has_all_of_it_only_the_closing_is_missing(self) -> None:
        transport, upload = taking(
            Answer(404), begun(), Took(self.LOST), status(len(LARGE) - 1), Answer(201)
        )  # fmt: skip
        await upload.stream(LARGE_BLOB, Cargo())
        assert [method for method, _ in transport.asked[3:]] == ["GET", "PUT"]
        assert transport.requests[-1].headers == {"Content-Length": "0"}

    async def test_a_put_whose_answer_was_lost_was_a_put(self) -> None:
        transport, upload = taking(Answer(404), begun(), Took(self.LOST), Answer(404), Answer(200))
        assert await upload.stream(LARGE_BLOB, Cargo()) == "sent"
        assert [method for method, _ in transport.asked[3:]] == ["GET", "HEAD"]
        transport.assert_done()

    @pytest.mark.parametrize(
        "answer",
        [
            status(0),
            status(""),
            status("garbage"),
            status(5_000_000),
            Answer(404),
            Answer(400),
            Answer(416),
            Answer(200),
            Answer(202, {"Range": "0-99999"}),
            Answer(204),
        ],
        ids=lambda answer: f"{answer.status} {answer.headers.get('Range')}",
    )
    async def test_where_it_doesnt_say_another_upload_is_begun(self, answer: Answer) -> None:
        transport, upload = taking(
            Answer(404), begun(), Took(self.LOST, 100_000), answer, Answer(404), Answer(204), begun(1), Answer(201)
        )
        await upload.stream(LARGE_BLOB, Cargo())
        assert transport.asked[3:] == [
            ("GET", UPLOAD),
            ("HEAD", f"{BASE}/blobs/{LARGE_BLOB.digest}"),
            ("DELETE", UPLOAD),
            ("POST", f"{BASE}/blobs/uploads/"),
            ("PUT", f"{UPLOAD}1?digest={LARGE_QUOTED}"),
        ]
        assert transport.bodies[1] == LARGE
        transport.assert_done()

    @pytest.mark.parametrize("code", [404, 408, 416, 429, 500, 502, 503, 504])
    async def test_what_may_pass_is_tried_again(self, code: int) -> None:
        transport, upload = taking(
            Answer(404), begun(), Took(Answer(code), 100), Answer(404), Answer(404), Answer(204), begun(), Answer(201)
        )
        await upload.stream(LARGE_BLOB, Cargo())
        transport.assert_done()

    @pytest.mark.parametrize("code", [400, 401, 403, 405, 411, 501])
    async def test_what_wont_is_an_error_and_the_upload_is_cancelled(self, code: int) -> None:
        transport, upload = taking(Answer(404), begun(), Took(Answer(code), 100), Answer(204))
        with pytest.raises(RegistryError, match=rf"ghcr\.io/acme/triage.*{LARGE_BLOB.digest}") as caught:
            await upload.stream(LARGE_BLOB, Cargo())
        assert caught.value.status == code
        assert transport.asked[-1] == ("DELETE", UPLOAD)
        transport.assert_done()

    async def test_patience_ends(self) -> None:
        again = (Answer(404), Answer(404), Answer(204), begun(), Took(self.LOST, 100))
        transport, upload = taking(Answer(404), begun(), Took(self.LOST, 100), *again, *again, Answer(204), attempts=3)
        with pytest.raises(ConnectFailed):
            await upload.stream(LARGE_BLOB, Cargo())
        assert transport.asked[-1][0] == "DELETE"
        transport.assert_done()

    async def test_but_not_while_there_is_progress(self) -> None:
        steps: list[Answer | LadingError | Took] = []
        for end in range(20_000, len(LARGE), 20_000):
            steps += [Took(self.LOST, 20_000), status(end - 1)]
        transport, upload = taking(Answer(404), begun(), *steps, Answer(202), Answer(201), attempts=2)
        await upload.stream(LARGE_BLOB, Cargo())
        transport.assert_done()

    async def test_a_cancellation_that_fails_hides_nothing(self) -> None:
        _, upload = taking(Answer(404), begun(), Took(Answer(403), 100), ConnectFailed("and now this"))
        with pytest.raises(Denied):
            await upload.stream(LARGE_BLOB, Cargo())

    @pytest.mark.parametrize("step", range(3))
    async def test_cancelled_at_any_request(self, step: int) -> None:
        class Hanging(Taking):
            async def send(self, request: Request) -> Answer:
                if len(self.requests) == step and request.method != "DELETE":
                    self.requests.append(request)
                    if isinstance(request.body, Stream):
                        await anext(request.body.open())
                    hangs.set()
                    await anyio.sleep_forever()
                return await super().send(request)

        hangs = anyio.Event()
        transport = Hanging(*[Answer(404), begun(), Answer(201)][:step], *[Answer(204)][: step - 1])
        upload = Upload(transport, Endpoints("ghcr.io", HostsConfig().lookup("ghcr.io")), "acme/triage")
        cargo = Cargo()
        async with anyio.create_task_group() as group:
            group.start_soon(upload.stream, LARGE_BLOB, cargo)
            await hangs.wait()
            group.cancel_scope.cancel()
        assert cargo.closed == len(cargo.opened)
        assert [method for method, _ in transport.asked] == [
            ["HEAD"],
            ["HEAD", "POST"],
            ["HEAD", "POST", "PUT", "DELETE"],
        ][step]


class TestFind:
    async def test_with_its_digest(self) -> None:
        transport, upload = script(Answer(200, {"Docker-Content-Digest": str(Digest.of(RAW))}))
        assert await upload.find("v1") == (True, Digest.of(RAW))
        assert transport.asked == [("HEAD", f"{BASE}/manifests/v1")]
        assert "application/vnd.oci.image.index.v1+json" in transport.requests[0].headers["Accept"]
        transport.assert_done()

    @pytest.mark.parametrize("code", [404, 405, 501])
    async def test_not_there_or_nobody_says(self, code: int) -> None:
        _, upload = script(Answer(code))
        assert await upload.find("v1") == (False, None)

    @pytest.mark.parametrize("digest", [{}, {"Docker-Content-Digest": "garbage"}])
    async def test_without_a_digest(self, digest: dict[str, str]) -> None:
        _, upload = script(Answer(200, digest))
        assert await upload.find("v1") == (True, None)

    async def test_a_refusal_names_repository_and_action(self) -> None:
        _, upload = script(Answer(403))
        with pytest.raises(Denied, match="repository:acme/triage:pull,push"):
            await upload.find("v1")


@pytest.mark.parametrize(("headers", "is_known"), [({"OCI-Subject": "sha256:…"}, True), ({}, False)])
async def test_a_registry_says_whether_it_knows_what_a_subject_is(headers: dict[str, str], is_known: bool) -> None:
    _, upload = script(Answer(201, headers))
    assert await upload.manifest("v1", RAW, OCI_MANIFEST) is is_known
