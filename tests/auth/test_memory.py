"""What is remembered of registries beyond the life of a client: what it saves, what it costs when it is wrong."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import anyio
import pytest
from auth.scripted import Clock, Network, Reply, manifest

from lading.auth.challenge import Challenge
from lading.auth.credentials import Credential, Credentials, StaticCredentials
from lading.auth.memory import Access, ChallengeMemory, KeptChallenges, RecentChallenges
from lading.auth.realm import is_related
from lading.auth.transport import AuthTransport
from lading.errors import ConnectFailed, CredentialError, LadingError, StoreError, TransportError
from lading.http.transport import Origin, Request
from lading.store.local import LocalStore
from lading.store.store import Changes, MemoryStore

HOST = "registry.example.com"
ORIGIN = Origin("https", HOST, 443)
KEY = "https://registry.example.com:443"
REALM = "https://example.com/token"
OLD = "https://example.com/old/token"
PULL = ("repository:acme/triage:pull",)
ACCESS = Access(ORIGIN, HOST, PULL)
ACCESS_KEY = f"{KEY} {HOST} {PULL[0]}"
BASIC = "Basic " + base64.b64encode(b"alice:planted-password").decode()


@dataclass
class Notes:
    """Notes in a dictionary, and what was asked and told."""

    known: dict[tuple[str, str], str] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    written: list[tuple[str, str, str | None]] = field(default_factory=list)
    failure: LadingError | None = None

    def recall(self, kind: str, key: str) -> str | None:
        self.asked.append((kind, key))
        if self.failure is not None:
            raise self.failure
        return self.known.get((kind, key))

    async def keep(self, kind: str, key: str, value: str | None) -> None:
        await anyio.lowlevel.checkpoint()
        if self.failure is not None:
            raise self.failure
        self.written.append((kind, key, value))
        self.known.pop((kind, key), None)
        if value is not None:
            self.known[kind, key] = value

    def memory(self) -> KeptChallenges:
        """The memory of one more process."""
        return KeptChallenges(self.recall, self.keep)


def bearer(realm: str = REALM, **parameters: str) -> Challenge:
    return Challenge("bearer", {"realm": realm, **parameters})


# Memories


@pytest.fixture(params=["recent", "kept"])
def memory(request: pytest.FixtureRequest) -> ChallengeMemory:
    return RecentChallenges() if request.param == "recent" else Notes().memory()


async def test_a_challenge_is_remembered_for_its_origin(memory: ChallengeMemory) -> None:
    assert memory.recall(ORIGIN) is None
    await memory.remember(ORIGIN, bearer())
    assert memory.recall(ORIGIN) == bearer()
    for other in (Origin("http", HOST, 443), Origin("https", HOST, 5000), Origin("https", "other.example.com", 443)):
        assert memory.recall(other) is None
    await memory.remember(ORIGIN, Challenge("basic"))
    assert memory.recall(ORIGIN) == Challenge("basic")
    await memory.remember(ORIGIN, None)
    assert memory.recall(ORIGIN) is None


async def test_a_need_is_remembered_for_its_access(memory: ChallengeMemory) -> None:
    assert memory.recall_need(ACCESS) is None
    for is_needed in (True, False, True):
        await memory.remember_need(ACCESS, is_needed, is_certain=is_needed)
        assert memory.recall_need(ACCESS) is is_needed
    for other in (
        ACCESS._replace(scopes=()),
        ACCESS._replace(registry="r"),
        ACCESS._replace(origin=ORIGIN._replace(port=1)),
    ):
        assert memory.recall_need(other) is None


# What another process gets to know


@pytest.mark.parametrize(
    ("challenge", "text"),
    [
        (Challenge("basic"), "Basic"),
        (bearer(), f'Bearer realm="{REALM}"'),
        (bearer(service="registry"), f'Bearer realm="{REALM}",service="registry"'),
        (bearer(service='a "b" \\c, d=e'), f'Bearer realm="{REALM}",service="a \\"b\\" \\\\c, d=e"'),
        (bearer(service="\\"), f'Bearer realm="{REALM}",service="\\\\"'),
        (
            bearer("https://auth.example.com:8443/v2/token;a=b"),
            'Bearer realm="https://auth.example.com:8443/v2/token;a=b"',
        ),
    ],
)
async def test_a_challenge_is_kept_as_its_header_line(challenge: Challenge, text: str) -> None:
    notes = Notes()
    await notes.memory().remember(ORIGIN, challenge)
    assert notes.known == {("challenge", KEY): text}
    assert notes.memory().recall(ORIGIN) == challenge


@pytest.mark.parametrize(
    "challenge",
    [
        bearer(REALM + "?secret=planted"),
        bearer(REALM + "?"),
        bearer(service="größer"),
        bearer(service="a\r\nb"),
        bearer(service="\x7f"),
        bearer(service="\ud800"),
        bearer(service="x" * 3000),
        bearer("https://auth.example.com/" + "x" * 3000),
        bearer(scope="repository:acme/triage:pull"),
        Challenge("bearer", {"service": "registry"}),
        Challenge("bearer", token68="planted"),
        Challenge("basic", {"realm": "planted"}),
        Challenge("negotiate"),
    ],
)
async def test_what_is_not_to_be_kept_is_remembered_by_its_client_only(challenge: Challenge) -> None:
    notes = Notes()
    await notes.memory().remember(ORIGIN, bearer())
    memory = notes.memory()
    await memory.remember(ORIGIN, challenge)
    assert memory.recall(ORIGIN) == challenge
    assert notes.known == {}, "nor is the one before, which is wrong by now"
    assert notes.memory().recall(ORIGIN) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "nonsense, really",
        "Bearer",
        'Bearer realm=""',
        'Bearer service="registry"',
        'Bearer realm="https://auth.example.com/token',
        f'Bearer realm="{REALM}?secret=planted"',
        f'Bearer realm="{REALM}",realm="{REALM}"',
        f'Bearer realm="{REALM}",scope="repository:acme/triage:pull"',
        f'Bearer realm="{REALM}",service="a\nb"',
        f'Bearer realm="{REALM}",service="ü"',
        f'Bearer realm="{REALM}",service="{"x" * 3000}"',
        f'Bearer realm="{REALM}", Basic',
        'Basic realm="r"',
        "Basic YWxpY2U6cGFzc3dvcmQ=",
        "Negotiate",
        "\0",
        "x" * 4096,
    ],
)
async def test_a_note_that_is_no_challenge_is_none(text: str) -> None:
    notes = Notes({("challenge", KEY): text})
    memory = notes.memory()
    assert memory.recall(ORIGIN) is None
    await memory.remember(ORIGIN, bearer())
    assert notes.memory().recall(ORIGIN) == bearer()


@pytest.mark.parametrize("value", ["", "no", "Credential", "planted-password"])
async def test_a_note_that_is_no_need_is_none(value: str) -> None:
    assert Notes({("need", ACCESS_KEY): value}).memory().recall_need(ACCESS) is None


async def test_a_certain_need_is_kept_until_it_is_none_any_more() -> None:
    notes = Notes()
    await notes.memory().remember_need(ACCESS, True, is_certain=True)
    assert notes.known == {("need", ACCESS_KEY): "credential"}
    assert notes.memory().recall_need(ACCESS) is True
    await notes.memory().remember_need(ACCESS, True, is_certain=False)
    assert notes.memory().recall_need(ACCESS) is True
    await notes.memory().remember_need(ACCESS, False, is_certain=False)
    assert notes.known == {}


@pytest.mark.parametrize("is_needed", [True, False])
async def test_what_nobody_has_tried_is_not_kept(is_needed: bool) -> None:
    notes = Notes()
    await notes.memory().remember_need(ACCESS, is_needed, is_certain=False)
    assert notes.written == []


async def test_notes_are_asked_for_once_and_written_once() -> None:
    notes = Notes()
    for _ in range(2):
        memory = notes.memory()
        for _ in range(3):
            memory.recall(ORIGIN)
            await memory.remember(ORIGIN, bearer())
            memory.recall_need(ACCESS)
            await memory.remember_need(ACCESS, True, is_certain=True)
    assert len(notes.written) == 2
    notes.asked.clear()
    memory = notes.memory()
    for _ in range(3):
        memory.recall(ORIGIN)
        memory.recall_need(ACCESS)
        await memory.remember_need(ACCESS, False, is_certain=False)
    assert notes.asked == [("challenge", KEY), ("need", ACCESS_KEY), ("need", ACCESS_KEY)]
    assert len(notes.written) == 3


async def test_an_address_of_ipv6_has_its_brackets() -> None:
    notes = Notes()
    await notes.memory().remember(Origin("http", "::1", 5000), Challenge("basic"))
    assert list(notes.known) == [("challenge", "http://[::1]:5000")]


async def test_more_registries_than_can_be_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lading.auth.memory._MOST", 10)
    notes = Notes()
    memory = notes.memory()
    origins = [Origin("https", HOST, port) for port in range(1, 30)]
    for origin in origins:
        await memory.remember(origin, bearer())
        await memory.remember_need(ACCESS._replace(origin=origin), True, is_certain=True)
    assert all(memory.recall(origin) == bearer() for origin in origins)
    assert all(memory.recall_need(ACCESS._replace(origin=origin)) for origin in origins)
    assert max(len(memory._challenges), len(memory._needs)) <= 10


# Processes, one after the other


class Helper:
    """Credentials that a program has to be run for."""

    def __init__(self, answer: Credential | CredentialError | None) -> None:
        self._answer = answer
        self.runs = 0

    async def credential(self, host: str) -> Credential | None:
        self.runs += 1
        if isinstance(self._answer, CredentialError):
            raise self._answer
        return self._answer

    async def is_costly(self, host: str) -> bool:
        return True

    def forget(self, host: str) -> None: ...


ALICE = Credential("alice", "planted-password")


@dataclass(frozen=True)
class World:
    """A registry, its token server, and what answers elsewhere: with a status and a body, or not at all."""

    scheme: str = "bearer"
    realm: str = REALM
    service: str = "registry"
    is_private: bool = False
    denies: int = 0
    password: str = "planted-password"
    elsewhere: int = 0
    body: bytes = b""

    def __call__(self, request: Request) -> Reply:
        if request.url.startswith(f"https://{HOST}/v2/"):
            return self._serve(request.headers.get("Authorization", ""))
        if self.scheme == "bearer" and request.url.startswith(self.realm):
            return self._give(request)
        if not self.elsewhere:
            raise ConnectFailed("nobody is there", url=request.url)
        return Reply(self.elsewhere, {"Location": "https://169.254.169.254/"}, self.body)

    def _user(self, authorization: str) -> str | None:
        if not authorization.startswith("Basic "):
            return ""
        name, _, password = base64.b64decode(authorization[6:]).decode().partition(":")
        return name if password == self.password else None

    def _give(self, request: Request) -> Reply:
        user = self._user(request.headers.get("Authorization", ""))
        if user is None:
            return Reply(401)
        if self.denies and self.is_private and not user:
            return Reply(self.denies)
        service = parse_qs(urlsplit(request.url).query).get("service", [""])[0]
        return Reply(body=json.dumps({"token": f"{self.realm}|{service}|{user}"}).encode())

    def _serve(self, authorization: str) -> Reply:
        if self.scheme == "none":
            return Reply()
        challenge = f'Bearer realm="{self.realm}",service="{self.service}"'
        user = ""
        if self.scheme == "basic":
            challenge, user = 'Basic realm="planted"', self._user(authorization) or ""
        elif authorization.startswith("Bearer "):
            realm, _, rest = authorization.removeprefix("Bearer ").partition("|")
            service, _, user = rest.partition("|")
            if (realm, service) != (self.realm, self.service):
                return Reply(401, challenges=[challenge])
        else:
            return Reply(401, challenges=[challenge])
        return Reply(401, challenges=[challenge]) if not user and self.is_private else Reply()


PRIVATE = World(is_private=True)
BASIC_WORLD = World("basic", is_private=True)


async def process(world: World, credentials: Credentials, notes: Notes) -> tuple[object, list[str]]:
    """Ask for one manifest in a new process: the status or the kind of error, and what was sent."""
    network = Network(world)
    auth = AuthTransport(network, credentials, clock=Clock(), memory=notes.memory())
    outcome: object
    try:
        async with await auth.send(manifest()) as response:
            outcome = response.status
    except LadingError as error:
        outcome = type(error)
    assert network.left_open() == []
    return outcome, ["manifest" if HOST in request.url else "token" for request in network.requests]


WHO: dict[str, Callable[[], Credentials]] = {
    "nobody": lambda: StaticCredentials({}),
    "at hand": lambda: StaticCredentials({HOST: ALICE}),
    "helper": lambda: Helper(ALICE),
    "helper with nothing": lambda: Helper(None),
    "broken helper": lambda: Helper(CredentialError("broken")),
}

# world, who: what a first process sends, and every other.
SAVED = {
    "public, nobody": (World(), "nobody", "manifest token manifest", "token manifest"),
    "public, at hand": (World(), "at hand", "manifest token manifest", "token manifest"),
    "public, helper": (World(), "helper", "manifest token manifest", "token manifest"),
    "private, at hand": (PRIVATE, "at hand", "manifest token manifest", "token manifest"),
    "private, helper": (PRIVATE, "helper", "manifest token manifest token manifest", "token manifest"),
    "private, 401": (World(is_private=True, denies=401), "helper", "manifest token token manifest", "token manifest"),
    "private, 403": (World(is_private=True, denies=403), "helper", "manifest token token manifest", "token manifest"),
    "basic, at hand": (BASIC_WORLD, "at hand", "manifest manifest", "manifest"),
    "basic, helper": (BASIC_WORLD, "helper", "manifest manifest", "manifest"),
    "open, helper": (World("none"), "helper", "manifest", "manifest"),
}


@pytest.mark.parametrize(("world", "who", "first", "second"), SAVED.values(), ids=SAVED)
async def test_a_second_process_asks_in_advance(world: World, who: str, first: str, second: str) -> None:
    notes = Notes()
    for expected in (first, second, second):
        credentials = WHO[who]()
        assert await process(world, credentials, notes) == (200, expected.split())
        if isinstance(credentials, Helper):
            assert credentials.runs == (world.is_private)
    assert "planted" not in repr(notes)


async def test_a_rate_limit_is_no_need() -> None:
    notes = Notes()

    def limited(request: Request) -> Reply:
        reply = World()(request)
        is_nobody = request.headers.get("Authorization", "").endswith("|")
        return Reply(429) if HOST in request.url and is_nobody and reply.status == 200 else reply

    helper = Helper(ALICE)
    auth = AuthTransport(Network(limited), helper, clock=Clock(), memory=notes.memory())
    async with await auth.send(manifest()) as response:
        assert response.status == 200
    assert helper.runs == 1
    assert [kind for kind, _ in notes.known] == ["challenge"]


async def test_a_rate_limit_of_the_token_server_is_no_need_either() -> None:
    notes = Notes()

    def limited(request: Request) -> Reply:
        return Reply(429) if HOST not in request.url and "Authorization" not in request.headers else World()(request)

    auth = AuthTransport(Network(limited), Helper(ALICE), clock=Clock(), memory=notes.memory())
    async with await auth.send(manifest()) as response:
        assert response.status == 200
    assert [kind for kind, _ in notes.known] == ["challenge"]


async def test_who_accepted_an_answer_in_this_process_is_asked_twice_in_advance() -> None:
    def mixed(request: Request) -> Reply:
        return World(is_private="secret" in request.url, denies=403)(request)

    async def sent(auth: AuthTransport, repository: str) -> list[str]:
        network.requests.clear()
        async with await auth.send(manifest(repository)) as response:
            assert response.status == 200
        return ["manifest" if HOST in request.url else "token" for request in network.requests]

    network, notes = Network(mixed), Notes()
    auth = AuthTransport(network, Helper(ALICE), clock=Clock(), memory=notes.memory())
    assert await sent(auth, "acme/public") == ["manifest", "token", "manifest"]
    assert await sent(auth, "acme/secret") == ["token", "token", "manifest"]
    auth = AuthTransport(network, Helper(ALICE), clock=Clock(), memory=notes.memory())
    assert await sent(auth, "acme/secret2") == ["token", "manifest", "token", "manifest"]


@pytest.mark.parametrize("status", [404, 500])
async def test_an_error_says_nothing_about_a_challenge(status: int) -> None:
    notes = Notes()
    assert (await process(WAS, WHO["nobody"](), notes))[0] == 200

    def now(request: Request) -> Reply:
        if HOST in request.url and "Authorization" not in request.headers:
            return Reply(status)
        raise ConnectFailed("nobody is there", url=request.url)

    auth = AuthTransport(Network(now), WHO["nobody"](), clock=Clock(), memory=notes.memory())
    async with await auth.send(manifest()) as response:
        assert response.status == status
    assert notes.memory().recall(ORIGIN) == bearer(OLD, service="registry")


# Wrong memories: how the world was when it was remembered, and how it is now.
GARBAGE = b"<html>a captive portal</html>"
TOKEN = b'{"token":"worthless"}'
WAS = World(realm=OLD)
CHANGES: dict[str, tuple[World, World]] = {
    "nothing": (World(), World()),
    "nothing, private": (PRIVATE, PRIVATE),
    "nothing, basic": (BASIC_WORLD, BASIC_WORLD),
    "realm moved, the old one is gone": (WAS, World()),
    "realm moved, the old one is 404": (WAS, World(elsewhere=404)),
    "realm moved, the old one is 401": (WAS, World(elsewhere=401)),
    "realm moved, the old one is 403": (WAS, World(elsewhere=403)),
    "realm moved, the old one is 429": (WAS, World(elsewhere=429)),
    "realm moved, the old one is 500": (WAS, World(elsewhere=500)),
    "realm moved, the old one gives garbage": (WAS, World(elsewhere=200, body=GARBAGE)),
    "realm moved, the old one gives tokens": (WAS, World(elsewhere=200, body=TOKEN)),
    "realm moved, the old one redirects": (WAS, World(elsewhere=302)),
    "realm moved, private": (World(realm=OLD, is_private=True), PRIVATE),
    "realm moved, private, 401": (World(realm=OLD, is_private=True), World(is_private=True, elsewhere=401, denies=403)),
    "service renamed": (World(service="old"), World()),
    "service renamed, private": (World(service="old", is_private=True), PRIVATE),
    "private now": (World(), PRIVATE),
    "private now, the token server denies it": (World(), World(is_private=True, denies=403)),
    "public now": (PRIVATE, World()),
    "asks nobody any more": (WAS, World("none")),
    "asks nobody any more, but gives tokens": (WAS, World("none", elsewhere=200, body=TOKEN)),
    "asked for a password, asks nobody": (BASIC_WORLD, World("none")),
    "bearer, then basic": (PRIVATE, BASIC_WORLD),
    "bearer, then basic, and tokens are given": (PRIVATE, World("basic", is_private=True, elsewhere=200, body=TOKEN)),
    "basic, then bearer": (BASIC_WORLD, PRIVATE),
    "basic, then public": (BASIC_WORLD, World()),
    "the password changed": (PRIVATE, World(is_private=True, password="another")),
    "the password changed, public now": (PRIVATE, World(password="another")),
    "the password changed, basic": (BASIC_WORLD, World("basic", is_private=True, password="another")),
}
NEVER_NOTICED = {"asks nobody any more, but gives tokens"}


@pytest.mark.parametrize("who", WHO)
@pytest.mark.parametrize("before", ["at hand", "helper"])
@pytest.mark.parametrize("change", CHANGES)
async def test_a_wrong_memory_costs_a_round_trip_and_no_more(change: str, before: str, who: str) -> None:
    was, now = CHANGES[change]
    fresh_outcome, fresh = await process(now, WHO[who](), Notes())
    notes = Notes()
    assert (await process(was, WHO[before](), notes))[0] == 200
    outcome, stale = await process(now, WHO[who](), notes)
    assert outcome == fresh_outcome
    assert len(stale) <= len(fresh) + 1
    if outcome == 200:
        _, again = await process(now, WHO[who](), notes)
        assert len(again) <= len(fresh) + (change in NEVER_NOTICED)
        _, again = await process(now, WHO[who](), notes)
        assert len(again) <= len(fresh) + (change in NEVER_NOTICED)


@pytest.mark.parametrize("who", ["nobody", "at hand", "helper"])
async def test_a_token_server_that_is_down_is_asked_once(who: str) -> None:
    notes = Notes()
    assert (await process(WAS, WHO[who](), notes))[0] == 200

    def down(request: Request) -> Reply:
        if HOST in request.url:
            return WAS(request)
        raise ConnectFailed("nobody is there", url=request.url)

    network = Network(down)
    auth = AuthTransport(network, WHO[who](), clock=Clock(), memory=notes.memory())
    with pytest.raises(TransportError):
        await auth.send(manifest())
    assert [HOST in request.url for request in network.requests] == [False, True]
    assert network.left_open() == []
    assert (await process(WAS, WHO[who](), notes))[1] == ["token", "manifest"]


async def test_nobody_runs_a_helper_for_a_token_server_that_only_a_memory_names(
    caplog: pytest.LogCaptureFixture,
) -> None:
    notes = Notes()
    assert (await process(WAS, WHO["helper"](), notes))[0] == 200
    helper = Helper(ALICE)
    assert await process(World(elsewhere=401), helper, notes) == (200, ["token", "manifest", "token", "manifest"])
    assert helper.runs == 0
    at_hand = WHO["at hand"]()
    notes = Notes()
    assert (await process(WAS, WHO["at hand"](), notes))[0] == 200
    assert (await process(World(elsewhere=401), at_hand, notes))[0] == 200
    assert caplog.records == [], "the credential isn't wrong"


@pytest.mark.parametrize(
    "realm",
    [
        "http://evil.example.net/",
        "https://127.0.0.1/",
        "https://169.254.169.254/latest/",
        "https://user:planted@auth.example.com/",
        "https://registry.example.com@evil.example.net/",
        "file:///etc/passwd",
    ],
)
async def test_a_planted_realm_is_not_talked_to(realm: str) -> None:
    notes = Notes({("challenge", KEY): f'Bearer realm="{realm}"', ("need", ACCESS_KEY): "credential"})
    assert await process(World(), WHO["at hand"](), notes) == (200, ["manifest", "token", "manifest"])
    assert notes.known["challenge", KEY] == f'Bearer realm="{REALM}",service="registry"'


async def test_another_origin_teaches_nothing_that_lasts() -> None:
    notes = Notes()
    network = Network(World())
    auth = AuthTransport(network, WHO["at hand"](), clock=Clock(), memory=notes.memory())
    other = Origin("https", "cdn.example.net", 443)
    request = manifest()
    async with await auth.send(Request("GET", request.url, {}, None, HOST, other, PULL)) as response:
        assert response.status == 200
    assert (notes.asked, notes.written) == ([], [])


# Notes that fail


@pytest.mark.parametrize("failure", [StoreError("the disk is gone"), StoreError("read-only", hint="elsewhere")])
@pytest.mark.parametrize("world", [World(), PRIVATE, BASIC_WORLD])
async def test_notes_that_fail_are_told_to_debuggers_only(
    world: World, failure: StoreError, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    notes = Notes(failure=failure)
    assert (await process(world, WHO["helper"](), notes))[0] == 200
    assert {record.levelname for record in caplog.records} == {"DEBUG"}
    assert failure.message in caplog.text


async def test_cancelled_at_every_await_the_answer_is_let_go_of() -> None:
    for steps in range(100):
        network, notes = Network(PRIVATE), Notes()
        auth = AuthTransport(network, Helper(ALICE), clock=Clock(), memory=notes.memory())
        done = False
        async with anyio.create_task_group() as tasks:

            async def cancel_later(scope: anyio.CancelScope = tasks.cancel_scope, steps: int = steps) -> None:
                for _ in range(steps):
                    await anyio.lowlevel.checkpoint()
                scope.cancel()

            tasks.start_soon(cancel_later)
            async with await auth.send(manifest()):
                done = True
            tasks.cancel_scope.cancel()
        assert network.left_open() == []
        if done:
            return
    pytest.fail("never got through")


async def test_fifty_requests_write_one_note() -> None:
    notes = Notes()
    auth = AuthTransport(Network(World()), WHO["nobody"](), clock=Clock(), memory=notes.memory())

    async def one() -> None:
        async with await auth.send(manifest()) as response:
            assert response.status == 200

    async with anyio.create_task_group() as tasks:
        for _ in range(50):
            tasks.start_soon(one)
    assert [kind for kind, *_ in notes.written] == ["challenge"]


# In a real store


async def keep(store: LocalStore | MemoryStore, kind: str, key: str, value: str | None) -> None:
    await store.commit(Changes(1.0, notes=((kind, key, value),), durable=False))


SECRETS = [
    b"planted",
    base64.b64encode(b"alice:planted-password").rstrip(b"="),
    base64.b64encode(b"planted-password")[:-2],
]


@pytest.mark.parametrize("query", ["", "?secret=planted-query"])
@pytest.mark.parametrize(
    "credential",
    [
        ALICE,
        Credential("alice", "planted-password", identity_token="planted-identity"),
        Credential(registry_token="planted-registry"),
    ],
    ids=["password", "identity", "registry token"],
)
async def test_no_secret_reaches_the_disk(tmp_path: Path, credential: Credential, query: str) -> None:
    store = LocalStore(tmp_path / "store")
    memory = KeptChallenges(store.recall, partial(keep, store))

    def answer(request: Request) -> Reply:
        if request.url.startswith(REALM):
            is_somebody = "Authorization" in request.headers or request.body is not None
            body = {"token": "planted-token"} if is_somebody else {}
            return Reply(body=json.dumps(body).encode()) if is_somebody else Reply(403)
        if request.headers.get("Authorization") in ("Bearer planted-token", "Bearer planted-registry"):
            return Reply(fields={"Set-Cookie": "planted-cookie"})
        return Reply(401, challenges=[f'Bearer realm="{REALM}{query}",service="registry",planted="planted"'])

    for _ in range(2):
        auth = AuthTransport(Network(answer), Helper(credential), clock=Clock(), memory=memory)
        async with await auth.send(manifest()) as response:
            assert response.status == 200
    assert (store.recall("challenge", KEY) is None) is bool(query)
    assert store.recall("need", ACCESS_KEY) is not None
    nothing_is_planted_in(tmp_path)
    await store.aclose()
    nothing_is_planted_in(tmp_path)
    basic = World("basic", is_private=True)
    store = LocalStore(tmp_path / "store")
    memory = KeptChallenges(store.recall, partial(keep, store))
    auth = AuthTransport(Network(basic), Helper(ALICE), clock=Clock(), memory=memory)
    async with await auth.send(manifest(host=HOST)) as response:
        assert response.status == 200
    assert store.recall("challenge", KEY) == "Basic"
    await store.aclose()
    nothing_is_planted_in(tmp_path)


def nothing_is_planted_in(directory: Path) -> None:
    files = [path for path in directory.rglob("*") if path.is_file()]
    assert any(HOST.encode() in path.read_bytes() for path in files), "something was kept"
    assert [(path.name, secret) for path in files for secret in SECRETS if secret in path.read_bytes()] == []


async def test_a_damaged_note_is_a_registry_that_nobody_knows(tmp_path: Path) -> None:
    from lading.store import index

    store = LocalStore(tmp_path)
    await KeptChallenges(store.recall, partial(keep, store)).remember(ORIGIN, bearer())
    await store.aclose()
    connection = index.connect(str(tmp_path / "index-1.db"), "mode=rw")
    connection.execute("UPDATE note SET value = replace(value, 'example.com/token', 'evil.example.net/token')")
    connection.close()
    store = LocalStore(tmp_path)
    memory = KeptChallenges(store.recall, partial(keep, store))
    assert memory.recall(ORIGIN) is None
    await memory.remember(ORIGIN, bearer())
    assert KeptChallenges(store.recall, partial(keep, store)).recall(ORIGIN) == bearer()
    await store.aclose()


async def test_a_credential_never_goes_to_a_stranger_that_only_a_store_names() -> None:
    notes = Notes()
    await process(PRIVATE, StaticCredentials({HOST: ALICE}), notes)
    planted = {key: value.replace(REALM, "https://evil.example.net/token") for key, value in notes.known.items()}
    assert planted != notes.known
    notes.known = planted
    network = Network(World(is_private=True, elsewhere=200, body=b'{"token": "taken"}'))
    auth = AuthTransport(network, StaticCredentials({HOST: ALICE}), clock=Clock(), memory=notes.memory())
    async with await auth.send(manifest()) as response:
        assert response.status == 200
    assert [request.url for request in network.requests if "evil" in request.url] == []


@pytest.mark.parametrize(
    ("realm", "host", "is_its_own"),
    [
        ("https://ghcr.io/token", "ghcr.io", True),
        ("https://auth.docker.io/token", "registry-1.docker.io", True),
        ("https://gitlab.com/jwt/auth", "registry.gitlab.com", True),
        ("https://auth.docker.io/token", "ghcr.io", False),
        ("https://evilghcr.io/token", "ghcr.io", False),
        ("https://io/token", "ghcr.io", False),
        ("https://auth.ghcr.io/token", "ghcr.io", False),
        ("nonsense", "ghcr.io", False),
    ],
)
def test_whose_token_server_it_is_by_its_name(realm: str, host: str, is_its_own: bool) -> None:
    assert is_related(realm, Origin("https", host, 443)) is is_its_own
