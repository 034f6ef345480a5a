"""Everything that reads what others wrote, in one table: what it may raise, how much it is given, what is usual.

An input is bytes. Where the reader takes text, that is what aiohttp and Python make of the same bytes: UTF-8, with what
isn't as surrogates. Whatever a reader does with any input, it is a value or one of its errors, and it is soon.
"""

from __future__ import annotations

import atexit
import base64
import contextlib
import gzip
import io
import json
import re
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from scripted import Answer, ScriptedTransport

from lading.agents.artifact import accept, choose, unpack
from lading.agents.capabilities import compare_agents
from lading.agents.document import parse_document
from lading.auth.challenge import choose as choose_challenge
from lading.auth.challenge import parse_challenges
from lading.auth.configfile import ConfigFile, Program, hostname
from lading.auth.exchange import read_grant
from lading.auth.helpers import _read as read_helper
from lading.auth.memory import KeptChallenges
from lading.auth.realm import realm_refusal
from lading.auth.scopes import covers, merge_scopes
from lading.auth.wishes import told_scopes
from lading.errors import (
    BodyInterrupted,
    CredentialError,
    DigestMismatch,
    InvalidDigest,
    InvalidDocument,
    InvalidHosts,
    InvalidLockfile,
    InvalidManifest,
    InvalidPlatform,
    InvalidReference,
    LadingError,
    NotAnAgent,
    NotFound,
    ProtocolError,
    RegistryError,
)
from lading.http.hosts import Host, HostsConfig
from lading.http.limits import rate_limit, retry_after
from lading.http.proxy import NoProxy, ProxyRules
from lading.http.redirect import redirect_target
from lading.http.transport import Headers, Origin
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest
from lading.oci.manifest import MANIFEST_LIMIT, Index, parse_manifest
from lading.oci.media_types import essence, is_media_type
from lading.oci.platform import Platform, select
from lading.oci.reference import Reference
from lading.oci.strict_json import parse_json
from lading.pull.lockfile import LENGTH_LIMIT, Lockfile
from lading.redact import printable, redact, redact_url
from lading.registry.endpoints import Endpoints
from lading.registry.links import next_page
from lading.registry.ranges import continue_at, parse_content_range
from lading.registry.referrers import extended, referrers
from lading.registry.repository import Repository
from lading.store.layout import add_entries, check_mark, read_entries
from lading.store.layout_read import open_layout
from lading.store.layout_tar import read_members

KIB = 1024
MIB = 1024 * KIB

HEADER_LIMIT = 8 * KIB - 2
"""Bytes of a header line that aiohttp takes at most (8190)."""

DRIVES_A_TERMINAL = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""C0, C1 and bidirectional controls, and what can't be written."""

SECRET = Digest.of(b"{}")
ORIGIN = Origin("https", "ghcr.io", 443)
URL = "https://ghcr.io/v2/acme/triage/tags/list"


@dataclass(frozen=True)
class Parser:
    """A reader of foreign bytes.

    ``refusals`` are the errors that it documents, ``limit`` is how many bytes whoever calls it gives it at most.
    ``samples`` are usual inputs, ``tokens`` what its grammar is made of: pairs are what opens and what closes.
    """

    read: Callable[[bytes], object]
    refusals: tuple[type[Exception], ...]
    limit: int
    samples: Sequence[bytes]
    tokens: Sequence[bytes | tuple[bytes, bytes]]

    def outcome(self, raw: bytes) -> str:
        """Read ``raw``, and say what came of it. Whatever isn't documented comes out as itself."""
        try:
            self.read(raw[: self.limit])
        except self.refusals as error:
            str(error)
            return type(error).__name__
        return "read"

    @property
    def words(self) -> list[bytes]:
        """Every token, those of pairs too."""
        found: list[bytes] = []
        for token in self.tokens:
            found += [token] if isinstance(token, bytes) else list(token)
        return found


def text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def fields(raw: bytes) -> Headers:
    """Header fields, a line each."""
    lines = (line.partition(":") for line in text(raw).split("\n"))
    return Headers((name, value.strip()) for name, _, value in lines)


def lines(raw: bytes) -> list[str]:
    return text(raw).split("\n")


# OCI.


def read_reference(raw: bytes) -> None:
    found = Reference.parse(text(raw))
    assert str(Reference.parse(str(found))) == str(found)
    str(found).encode("ascii")


def read_digest(raw: bytes) -> None:
    assert str(Digest.parse(text(raw))) == text(raw)


def read_platform(raw: bytes) -> None:
    found = Platform.parse(text(raw))
    assert str(Platform.parse(str(found))) == str(found)


def read_manifest(raw: bytes) -> None:
    """The first line is the Content-Type, the rest the body."""
    content_type, _, body = raw.partition(b"\n")
    document = parse_manifest(body, text(content_type) or None)
    if isinstance(document, Index):
        for wanted in (Platform("linux", "amd64"), Platform("windows", "amd64", os_version="10.0.20348")):
            select(document, wanted)
        choose(document)
        extended(body, [Descriptor("application/x", SECRET, 2)])
    else:
        accept(document).embedded()


def read_descriptor(raw: bytes) -> None:
    found = Descriptor.from_json(parse_or(InvalidManifest, raw))
    assert Descriptor.from_json(json.loads(json.dumps(found.to_json()))) == found
    found.embedded()


def parse_or(error: type[LadingError], raw: bytes) -> object:
    try:
        return parse_json(raw)
    except ValueError as failure:
        raise error(str(failure)) from None


def read_json(raw: bytes) -> None:
    json.dumps(parse_json(raw), ensure_ascii=False, allow_nan=False).encode()


# Agents.


def read_agent(raw: bytes) -> None:
    document = parse_document(raw)
    assert document.name is None or document.root is not None
    for reference in document.references:
        assert reference.agent in document.agents


def compare(raw: bytes) -> None:
    """Two documents with a NUL between them, which none of them can have."""
    old, _, new = raw.partition(b"\0")
    for pair in ((old, new), (new, old)):
        found = compare_agents(*pair)
        assert found.summary
        for change in found.changes:
            assert not DRIVES_A_TERMINAL.search(str(change))


# HTTP.


def read_challenges(raw: bytes) -> None:
    challenges = parse_challenges(lines(raw))
    chosen = choose_challenge(challenges)
    if chosen is not None:
        realm_refusal(chosen.realm, ORIGIN)
        merge_scopes(chosen.scopes)


def read_kept_challenge(raw: bytes) -> None:
    async def keep(kind: str, key: str, value: str | None) -> None:
        raise AssertionError("nothing was remembered")

    KeptChallenges(lambda kind, key: text(raw), keep).recall(ORIGIN)


def read_realm(raw: bytes) -> None:
    realm = text(raw)
    for registry in (ORIGIN, Origin("http", "127.0.0.1", 5000)):
        if realm_refusal(realm, registry) is None:
            Origin.of(realm)


def read_token(raw: bytes) -> None:
    grant = read_grant(raw)
    assert 0 < grant.seconds <= 24 * 3600
    assert str(grant.token).isascii()
    told_scopes(str(grant.token))


def read_signed_token(raw: bytes) -> None:
    for token in (text(raw), f"e30.{base64.urlsafe_b64encode(raw).decode().rstrip('=')}.e30"):
        scopes = told_scopes(token) or ()
        assert merge_scopes(scopes) == scopes
        assert covers(scopes, scopes)


def read_links(raw: bytes) -> None:
    found = next_page(lines(raw), URL)
    assert found is None or Origin.of(found) == Origin.of(URL)


def read_location(raw: bytes) -> None:
    target = redirect_target(URL, text(raw))
    assert Origin.of(target).scheme == "https"
    Origin.of(redirect_target("http://127.0.0.1:5000/v2/", text(raw)))


def read_content_range(raw: bytes) -> None:
    found = parse_content_range(text(raw))
    assert 0 <= found.first <= found.last
    headers = Headers([("Content-Range", text(raw))])
    assert continue_at(206, headers, found.first, found.complete or found.last + 1) == found.first


def read_limits(raw: bytes) -> None:
    headers = fields(raw)
    seconds = retry_after(headers)
    assert seconds is None or seconds >= 0
    rate_limit("ghcr.io", headers)


def read_media_type(raw: bytes) -> None:
    is_media_type(text(raw))
    assert essence(text(raw)) == essence(essence(text(raw)))


def shown(raw: bytes) -> None:
    for show in (printable, redact, redact_url):
        assert not DRIVES_A_TERMINAL.search(show(text(raw)))
        show(text(raw)).encode()


def at_once(operation: Coroutine[Any, Any, object]) -> object:
    """Run what waits for nothing."""
    try:
        operation.send(None)
    except StopIteration as end:
        return end.value
    operation.close()
    raise AssertionError("it waits for something")


def answered(raw: bytes) -> Repository:
    """A repository whose every request is answered with ``raw``: a status, header fields, an empty line, a body."""
    head, _, body = raw.partition(b"\n\n")
    status, _, rest = head.partition(b"\n")
    code = int(status) if status.isdigit() and len(status) == 3 else 200
    answer = partial(Answer, code, [(name, value) for name, value in fields(rest)], body)

    class Same(ScriptedTransport):
        async def send(self, request: Any) -> Any:
            if len(self.requests) > 3:
                raise NotFound("enough", url=request.url, status=404)
            self.script = [answer()]
            return await super().send(request)

    hosts = HostsConfig().lookup("ghcr.io")
    return Repository(Same(), Endpoints("ghcr.io", hosts), "acme/triage", set())


async def listed(names: Any) -> list[Any]:
    return [name async for name in names]


def read_head(raw: bytes) -> None:
    for selector in ("v1", str(SECRET)):
        with contextlib.suppress(LadingError):
            at_once(answered(raw).resolve(selector))


def read_answer(raw: bytes) -> None:
    served = at_once(answered(raw).manifest("v1"))
    assert Digest.of(served.raw, served.digest.algorithm) == served.digest  # type: ignore[attr-defined]


def read_tags(raw: bytes) -> None:
    for name in at_once(listed(answered(raw).tags())):  # type: ignore[attr-defined]
        assert isinstance(name, str)


def read_referrers(raw: bytes) -> None:
    at_once(listed(referrers(answered(raw), SECRET)))


# Files.


def read_config(raw: bytes) -> None:
    for found in ConfigFile.parse(raw, "config.json").find("ghcr.io", "ghcr.io"):
        if isinstance(found, Program):
            assert found.name.isascii()
            assert "/" not in found.name
    ConfigFile.parse(raw, "config.json").find("docker.io/acme/triage", "https://index.docker.io/v1/")


def read_config_key(raw: bytes) -> None:
    hostname(text(raw))


def read_helper_output(raw: bytes) -> None:
    read_helper(Program("test", "ghcr.io"), raw)


@cache
def directory() -> Path:
    path = Path(tempfile.mkdtemp(prefix="lading-hostile-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    (path / "ghcr.io").mkdir()
    (path / "ghcr.io" / "ca.pem").write_text("")
    return path


def read_hosts(raw: bytes) -> None:
    (directory() / "ghcr.io" / "hosts.toml").write_bytes(raw)
    found = HostsConfig(directories=[directory()]).lookup("ghcr.io")
    assert found.server.root.endswith("/v2") or found.server.override_path


def read_host(raw: bytes) -> None:
    assert Host(text(raw)).root.endswith("/v2")


def read_no_proxy(raw: bytes) -> None:
    rules = NoProxy.parse(text(raw))
    for host in ("ghcr.io", "10.0.0.1", "::1", text(raw[-100:])):
        rules.match(host, 443)


def read_proxy(raw: bytes) -> None:
    ProxyRules.of(text(raw), {})


def read_lock(raw: bytes) -> None:
    lock = Lockfile.parse(text(raw))
    assert Lockfile.parse(lock.text()) == lock


def read_mark(raw: bytes) -> None:
    check_mark(raw)


def read_index(raw: bytes) -> None:
    for entry in read_entries(raw):
        str(entry)
        assert entry.is_called(str(entry.descriptor.digest))
    add_entries(raw, [(Reference.parse("ghcr.io/acme/triage:v1"), Descriptor("application/x", SECRET, 2))])


def read_tar(raw: bytes) -> None:
    for _ in read_members(lambda offset, size: raw[offset : offset + size]):
        pass


def read_layout(raw: bytes) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(raw)
        file.flush()
        with open_layout(file) as layout:
            for entry in layout.entries():
                layout.read(entry.descriptor)


def read_layer(raw: bytes) -> None:
    assert len(unpack(raw)) <= max(32 * MIB, len(raw))


# Samples.

DIGEST = str(SECRET)
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
DESCRIPTOR = {"mediaType": "application/yaml", "digest": DIGEST, "size": 2, "data": "e30=", "annotations": {"a": "b"}}
CHILD = {
    **{"mediaType": MANIFEST, "digest": DIGEST, "size": 2, "urls": ["https://x/y"], "artifactType": "application/x"},
    "platform": {"os": "linux", "architecture": "arm64", "variant": "v8", "os.features": ["x"], "os.version": "10.0.1"},
}


def written(document: object) -> bytes:
    return json.dumps(document).encode()


IMAGE = written(
    {
        **{"schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "application/vnd.docker.agent.config.v1+json"},
        **{"config": DESCRIPTOR, "layers": [DESCRIPTOR], "annotations": {"io.docker.agent.version": "v1"}},
        "subject": DESCRIPTOR,
    }
)
LIST = written({"schemaVersion": 2, "mediaType": INDEX, "manifests": [CHILD, {**CHILD, "platform": None}]})
LAYOUT_INDEX = written(
    {
        **{"schemaVersion": 2, "mediaType": INDEX},
        "manifests": [
            {**CHILD, "annotations": {"org.opencontainers.image.ref.name": "v1", "io.containerd.image.name": "a/b:c"}}
        ],
    }
)
JSON_TOKENS: tuple[bytes | tuple[bytes, bytes], ...] = (
    *((b"[", b"]"), (b"{", b"}"), (b'{"a":', b"}"), (b'[{"a":', b"}]"), (b'"', b'"')),
    *(b",", b":", b"null", b"true", b"NaN", b"Infinity", b"1", b"-0", b"1e9", b".5", b"\\u", b"\\ud800", b"\\", b" "),
    *(b'"a":1,', b"\xff", b"\xef\xbb\xbf", b"\xd9\xa1", DIGEST.encode(), MANIFEST.encode()),
)
SKETCH = b"""version: "2"
agents:
  root: &root
    model: openai/gpt-5
    description: "a"
    instruction: |
      Say hello.
    toolsets:
      - type: mcp
        ref: docker:github
        remote: {url: "https://a/b", headers: {Authorization: "x"}}
      - {type: shell}
    sub_agents: [other, ghcr.io/acme/triage:v1, "p:https://a/b"]
  other: {<<: *root, handoffs: [root]}
models:
  m: {provider: openai, model: x, max_tokens: 10}
permissions: {allow: ["shell:*"]}
metadata: {author: a, tags: [b]}
"""
YAML_TOKENS: tuple[bytes | tuple[bytes, bytes], ...] = (
    *((b"[", b"]"), (b"{", b"}"), (b"{a: ", b"}"), (b"- ", b""), (b"? ", b""), (b"a:\n ", b""), (b'"', b'"')),
    *(b"&a ", b"*a ", b"!!str ", b"! ", b"%TAG ! x\n", b"%YAML 1.2\n", b"---\n", b"...\n", b"<<: ", b"|\n", b">-\n"),
    *(b"#", b",", b": ", b"\n", b"\t", b"\\x", b"~", b"\r", b"\xc2\x85", b"\xe2\x80\xa8", b"\xef\xbb\xbf", b"'"),
    *(b"a: b\n", b"- a\n", b"agents: ", b"root: ", b"sub_agents: ", b"toolsets: ", b"x" * 40),
)
CONFIG = {
    "auths": {
        "ghcr.io": {"auth": "YWRhOnNlY3JldA=="},
        "https://index.docker.io/v1/": {"username": "a", "password": "b", "identitytoken": "c"},
        "ghcr.io/acme": {"registrytoken": "d"},
    },
    "credHelpers": {"ghcr.io": "pass"},
    "credsStore": "desktop",
}
HOSTS = b"""server = "https://ghcr.io"
capabilities = ["pull"]
[host."https://mirror.example:5000"]
  capabilities = ["pull", "resolve"]
  ca = "ca.pem"
  client = [["ca.pem", "ca.pem"]]
  skip_verify = true
  override_path = true
  [host."https://mirror.example:5000".header]
    x-custom = ["1", "2"]
"""
TOML_TOKENS: tuple[bytes | tuple[bytes, bytes], ...] = (
    *((b"[", b"]"), (b"[[", b"]]"), (b"{a=", b"}"), (b"a=[", b"]"), (b'"', b'"'), (b'"""', b'"""'), (b"'''", b"'''")),
    *(b"a.", b"a=1\n", b"[a]\n", b"[[a]]\n", b"[host.a]\n", b'host."a".ca="b"\n', b"\\u", b"1_", b"0x", b"inf", b"nan"),
    *(b"1979-05-27T07:32:00Z", b",", b"=", b"#", b"\n", b"\r", b"\xff", b"\\"),
)
LOCK = f"""version = 1

[[agent]]
reference = "docker.io/acme/triage:v3"
digest = "{DIGEST}"
media-type = "{MANIFEST}"
size = 1043
requested = true

[[agent]]
reference = "ghcr.io/acme/writer:latest"
digest = "{DIGEST}"
media-type = "{INDEX}"
size = 978
needed-by = ["docker.io/acme/triage:v3"]
""".encode()
JWT = written({"access": [{"type": "repository", "name": "acme/triage", "actions": ["pull", "push"]}], "exp": 1})
HEADER_TOKENS = (
    b",",
    b";",
    b"=",
    b'"',
    b"\\",
    b" ",
    b"\t",
    b"<",
    b">",
    b"a",
    b"a=b,",
    b"\n",
    b"\r",
    b"\0",
    b"\xff",
    b"(",
)
URL_TOKENS = (
    b"/",
    b"..",
    b"../",
    b":",
    b"@",
    b"?",
    b"#",
    b"%2e",
    b"[",
    b"]",
    b"\\",
    b"//",
    b"http://",
    b"::",
    b"\n",
    b" ",
)
ANSWER = b"""200
Content-Type: application/vnd.oci.image.manifest.v1+json; charset=utf-8
Docker-Content-Digest: sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a
Content-Length: 2
Link: </v2/acme/triage/tags/list?last=b&n=2>; rel="next"
Warning: 299 - "deprecated"
Retry-After: 7
OCI-Filters-Applied: artifactType

"""
ANSWER_TOKENS = (
    *HEADER_TOKENS,
    *(
        b"\n\n",
        b"Content-Type: ",
        b"Docker-Content-Digest: ",
        b"Content-Length: ",
        b"Warning: 299 - ",
        b"Link: ",
        b"401",
    ),
    *(b"429", b"404", b"999", MANIFEST.encode(), INDEX.encode(), DIGEST.encode(), b'{"tags":', b'{"errors":[', b"{}"),
)
WARNINGS = b'299 - "a" ' * 20


def archive(*members: tuple[str, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return file.getvalue()


LAYOUT = (
    ("oci-layout", b'{"imageLayoutVersion": "1.0.0"}'),
    ("index.json", LAYOUT_INDEX),
    (f"blobs/sha256/{SECRET.encoded}", b"{}"),
    ("./" + "x" * 200, b"y"),
)
TARS = (
    archive(*LAYOUT),
    archive(*LAYOUT, form=tarfile.GNU_FORMAT),
    archive(("x" * 300, b"y"), ("\u00e9", b"z")),
)


def zstd(content: bytes) -> bytes:
    try:
        import zstandard
    except ImportError:
        return b"\x28\xb5\x2f\xfd" + content
    return bytes(zstandard.compress(content))


PARSERS: dict[str, Parser] = {
    "reference": Parser(
        read_reference,
        (InvalidReference,),
        MIB,
        (b"acme/triage", b"ghcr.io/acme/triage:v3", f"localhost:5000/a__b/c-d@{DIGEST}".encode(), b"[::1]:5000/a.b:c"),
        (b"a", b"a/", b"-", b"_", b".", b":", b"@", b"[", b"]", b"A", b"sha256:", b"\n", b"\xd9\xa1", b"0", b"://"),
    ),
    "digest": Parser(
        read_digest,
        (InvalidDigest,),
        MIB,
        (DIGEST.encode(), str(Digest.of(b"", "sha512")).encode()),
        (b"a", b":", b"sha256:", b"sha512:", b"+", b".", b"../", b"A", b"\n", b"\xd9\xa1"),
    ),
    "platform": Parser(
        read_platform,
        (InvalidPlatform,),
        MIB,
        (b"linux/arm64/v8", b"windows(10.0.20348+win32k)/amd64", b"arm", b"darwin"),
        (b"a", b"/", b"(", b")", b"+", b"%2F", b"%FF", b"+a", b"\n", b"linux", b"arm64"),
    ),
    "JSON": Parser(read_json, (ValueError,), 4 * MIB, (IMAGE, LIST, JWT), JSON_TOKENS),
    "descriptor": Parser(
        read_descriptor,
        (InvalidManifest, DigestMismatch),
        4 * MIB,
        (written(DESCRIPTOR), written(CHILD)),
        JSON_TOKENS,
    ),
    "manifest": Parser(
        read_manifest,
        (InvalidManifest, NotAnAgent, DigestMismatch),
        MANIFEST_LIMIT,
        (b"\n" + IMAGE, MANIFEST.encode() + b"; charset=utf-8\n" + IMAGE, INDEX.encode() + b"\n" + LIST),
        (*JSON_TOKENS, b'"schemaVersion":2', b'"manifests":[', b'"layers":[', b"\n"),
    ),
    "media type": Parser(
        read_media_type, (), HEADER_LIMIT, (MANIFEST.encode() + b"; a=b",), (b"a", b"/", b";", b" ", b"+")
    ),
    "challenges": Parser(
        read_challenges,
        (ProtocolError,),
        64 * KIB,
        (
            b'Bearer realm="https://ghcr.io/token",service="ghcr.io",scope="repository:a:pull b"',
            b'Basic realm="x", Negotiate YQ==',
        ),
        (*HEADER_TOKENS, b"Bearer ", b"Basic ", b'realm="', b'a="",', b"~"),
    ),
    "kept challenge": Parser(
        read_kept_challenge,
        (),
        64 * KIB,
        (b'Bearer realm="https://ghcr.io/token",service="ghcr.io"',),
        (*HEADER_TOKENS, b"Bearer ", b"Basic ", b'realm="'),
    ),
    "realm": Parser(
        read_realm,
        (),
        HEADER_LIMIT,
        (b"https://auth.docker.io/token", b"http://127.0.0.1:5000/token", b"https://[fe80::1]:1/x", b"https://0x7f.1/"),
        (*URL_TOKENS, b"127.", b"0x7f", b"169.254.169.254", b".", b"1", b"\xef\xbc\x8e"),
    ),
    "token": Parser(
        read_token,
        (ProtocolError,),
        64 * KIB,
        (written({"token": "abc", "expires_in": 300}), written({"access_token": "a.b.c", "expires_in": 1e300})),
        (*JSON_TOKENS, b'"token":"', b'"expires_in":'),
    ),
    "signed token": Parser(
        read_signed_token,
        (),
        64 * KIB,
        (JWT, b"e30." + base64.urlsafe_b64encode(JWT) + b".e30"),
        (*JSON_TOKENS, b".", b"=", b"e30", b'"access":[', b'"actions":['),
    ),
    "Link": Parser(
        read_links,
        (ProtocolError,),
        64 * KIB,
        (b'</v2/a/tags/list?last=b>; rel="next"', b'<x>; rel=prev, <https://ghcr.io/y>; title="a,b"; rel="last next"'),
        (*HEADER_TOKENS, *URL_TOKENS, b'rel="next"', b"; a", b'; a="', b"<>,"),
    ),
    "Location": Parser(
        read_location,
        (ProtocolError,),
        HEADER_LIMIT,
        (b"https://cdn.example/x?sig=a%2Fb", b"/v2/x", b"//other/x", b"?a#b"),
        URL_TOKENS,
    ),
    "Content-Range": Parser(
        read_content_range,
        (ProtocolError,),
        HEADER_LIMIT,
        (b"bytes 0-9/10", b"bytes 5-9/*", b"bytes */10"),
        (b"bytes ", b"0", b"9", b"-", b"/", b"*", b"\xd9\xa1", b"\n", b" "),
    ),
    "Retry-After and rate limits": Parser(
        read_limits,
        (),
        64 * KIB,
        (
            b"Retry-After: 7",
            b"Retry-After: Wed, 21 Oct 2026 07:28:00 GMT\nDate: Wed, 21 Oct 2026 07:27:00 GMT",
            b"RateLimit-Limit: 100;w=21600\nRateLimit-Remaining: 76;w=21600",
            b"RateLimit: limit=100, remaining=50, reset=30\nX-RateLimit-Limit: 5",
        ),
        (
            *HEADER_TOKENS,
            b"Retry-After: ",
            b"Date: ",
            b"1",
            b"Mon",
            b"Jan",
            b"+9999",
            b"-0000",
            b"99:99",
            b":",
            b"w=",
            b"Z",
        ),
    ),
    "answer to HEAD": Parser(read_head, (), 64 * KIB, (ANSWER,), ANSWER_TOKENS),
    "answer to GET": Parser(
        read_answer,
        (RegistryError, ProtocolError, DigestMismatch, BodyInterrupted),
        MIB,
        (ANSWER + b"{}", b'404\n\n{"errors":[{"code":"X","message":"y","detail":{}}]}', b"429\nRetry-After: 7\n\n{}"),
        ANSWER_TOKENS,
    ),
    "tags": Parser(
        read_tags,
        (RegistryError, ProtocolError),
        MIB,
        (ANSWER + b'{"name":"a","tags":["b","c"]}', b'200\n\n{"tags":null}', b"500\nWarning: " + WARNINGS + b"\n\n"),
        (*ANSWER_TOKENS, *JSON_TOKENS),
    ),
    "referrers": Parser(
        read_referrers,
        (RegistryError, ProtocolError),
        MIB,
        (b"200\nContent-Type: " + INDEX.encode() + b"\n\n" + LIST, b"404\n\n"),
        (*ANSWER_TOKENS, *JSON_TOKENS),
    ),
    "shown text": Parser(
        shown,
        (),
        MIB,
        (
            b"https://u:p@h/x?y#z Bearer abcdefgh1234 eyJhbGci.eyJh.x",
            b"\x1b[31m\xe2\x80\xae",
            b"Authorization: Basic YWRhOnNlY3JldA==",
        ),
        (b"a", b"://", b"@", b"?", b"Bearer ", b"basic: ", b"eyJ", b".", b"\x1b", b"\xff", b"a://", b"/", b"\\", b"1A"),
    ),
    "config.json": Parser(
        read_config,
        (CredentialError,),
        MIB,
        (written(CONFIG), written({"auths": {"ghcr.io": {"auth": "!"}}}), b" "),
        (*JSON_TOKENS, b'"auths":{', b'"credHelpers":{', b'"credsStore":', b'"auth":"', b'"ghcr.io":', b'"../x"'),
    ),
    "key of auths": Parser(
        read_config_key,
        (),
        MIB,
        (b"https://index.docker.io/v1/", b"ghcr.io", b"[::1]:5000", b"https://::1:5000/v2/"),
        (*URL_TOKENS, b"a"),
    ),
    "answer of a helper": Parser(
        read_helper_output,
        (CredentialError,),
        64 * KIB,
        (written({"ServerURL": "x", "Username": "a", "Secret": "b"}), written({"Username": "<token>", "Secret": "t"})),
        (*JSON_TOKENS, b'"Username":', b'"Secret":'),
    ),
    "hosts.toml": Parser(read_hosts, (InvalidHosts,), MIB, (HOSTS,), TOML_TOKENS),
    "URL of a host": Parser(
        read_host,
        (InvalidHosts,),
        MIB,
        (b"https://mirror.example:5000/v2", b"http://[::1]/a/../b"),
        (*URL_TOKENS, b"a"),
    ),
    "NO_PROXY": Parser(
        read_no_proxy,
        (),
        32 * KIB,
        (b"localhost, .example.com,10.0.0.0/8 [::1]:443,*.x:80", b"*"),
        (b"a", b",", b".", b"*", b":", b"/", b"[", b"]", b"1", b"a,", b"10.0.0.0/8,", b"::/0 ", b"@", b"*."),
    ),
    "proxy": Parser(
        read_proxy,
        (LadingError,),
        MIB,
        (b"http://user:p%40ss@proxy:3128", b"unix:///run/proxy.sock", b"proxy:80", b"auto"),
        (*URL_TOKENS, b"a", b"%", b"unix://", b"%00"),
    ),
    "lock file": Parser(read_lock, (InvalidLockfile,), min(LENGTH_LIMIT, MIB), (LOCK, b"version = 1\n"), TOML_TOKENS),
    "agent": Parser(read_agent, (InvalidDocument,), 32 * MIB, (SKETCH, b"agents: {root: {}}\n"), YAML_TOKENS),
    "two agents": Parser(
        compare,
        (InvalidDocument,),
        8 * MIB,
        (
            SKETCH + b"\0" + SKETCH.replace(b"shell", b"filesystem"),
            b"agents: {a: {x: 1}}\0agents: {a: {x: [1, {y: 2}]}}",
        ),
        (*YAML_TOKENS, b"\0"),
    ),
    "layer": Parser(
        read_layer,
        (NotAnAgent,),
        32 * MIB,
        (SKETCH, gzip.compress(SKETCH, mtime=0), gzip.compress(b"a", mtime=0) * 3 + b"\0" * 8, zstd(SKETCH)),
        (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", gzip.compress(b"", mtime=0), zstd(b""), b"\0", b"a", zlib.compress(b"")),
    ),
    "oci-layout": Parser(read_mark, (InvalidManifest,), 4 * MIB, (LAYOUT[0][1],), JSON_TOKENS),
    "index.json": Parser(read_index, (InvalidManifest,), 4 * MIB, (LAYOUT_INDEX, LIST), JSON_TOKENS),
    "tar": Parser(
        read_tar,
        (InvalidManifest,),
        4 * MIB,
        TARS,
        (b"\0", b"x", b"\x80", b"\xff", TARS[2][:512], TARS[2][:1024], b"7"),
    ),
    "layout in a tar": Parser(
        read_layout,
        (LadingError,),
        4 * MIB,
        TARS[:2],
        (b"\0", b"./", b"\x80", b"\xff", TARS[0][:1024], TARS[0][:1536], b"blobs/sha256/"),
    ),
}
