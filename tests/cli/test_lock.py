"""``lock``, and what others make of its file: what moves, what stays, and what is left alone after a failure."""

from __future__ import annotations

import json
import os
import signal
import sys

import anyio
import click
import pytest
from aiohttp import web
from artifacts import publish
from shell import Finished, Shell

from lading.cli.lock import plan_lock
from lading.errors import LadingError
from lading.oci.digest import Digest
from lading.oci.media_types import OCI_MANIFEST
from lading.oci.reference import Reference
from lading.pull.lockfile import LockEntry, Lockfile
from lading.testing import EmbeddedRegistry, RecordedRequest

DIGEST = Digest.parse(f"sha256:{'1' * 64}")


def ref(name: str) -> Reference:
    return Reference.parse(f"acme/{name}")


def locked(*requested: str, needed: str = "") -> Lockfile:
    entries = [LockEntry(ref(name), DIGEST, OCI_MANIFEST, 1, is_requested=True) for name in requested]
    parents = tuple(map(ref, requested))
    entries += [LockEntry(ref(name), DIGEST, OCI_MANIFEST, 1, parents) for name in needed.split()]
    return Lockfile(tuple(entries))


@pytest.mark.parametrize(
    ("old", "listed", "moved", "removed", "options", "requested", "kept"),
    [
        (None, "a b", "", "", "", "a b", None),
        (None, "a", "", "", "exact", "a", None),
        (None, "a", "", "", "exact update", "a", None),
        (locked("a", needed="n"), "", "", "", "", "a", "a n"),
        (locked("a", needed="n"), "b", "", "", "", "a b", "a n"),
        (locked("a", needed="n"), "a", "", "", "", "a", "a n"),
        (locked("a", needed="n"), "n", "", "", "", "a n", "a n"),
        (locked("a", "b"), "b c", "", "", "exact", "b c", "a b"),
        (locked("a", "b"), "b c", "", "", "exact update", "b c", None),
        (locked("a", "b"), "b c", "b", "", "exact update", "b c", "a"),
        (locked("a", needed="n"), "", "", "", "update", "a", None),
        (locked("a", needed="n"), "", "n", "", "update", "a", "a"),
        (locked("a", "b", needed="n"), "", "b n", "", "update", "a b", "a"),
        (locked("a", "b"), "", "", "a", "", "b", "a b"),
        (locked("a", "b"), "c", "", "a", "", "b c", "a b"),
        (locked("a"), "", "", "a", "", "", "a"),
        (locked("a", "b"), "", "", "a", "update", "b", None),
    ],
)
def test_what_is_requested_and_what_stays(
    old: Lockfile | None, listed: str, moved: str, removed: str, options: str, requested: str, kept: str | None
) -> None:
    plan = plan_lock(
        old,
        [ref(name) for name in listed.split()],
        [ref(name) for name in moved.split()],
        [ref(name) for name in removed.split()],
        is_exact="exact" in options,
        update="update" in options,
    )
    assert list(map(str, plan.requested)) == [str(ref(name)) for name in requested.split()]
    keep = None if plan.keep is None else [str(entry.reference) for entry in plan.keep.entries]
    assert keep == (None if kept is None else [str(ref(name)) for name in kept.split()])


@pytest.mark.parametrize(
    ("old", "moved", "removed", "says"),
    [
        (locked("a"), "b", "", "acme/b:latest: not in the lock file .add it: lading lock docker.io/acme/b"),
        (None, "b", "", "not in the lock file"),
        (locked("a"), "", "b", "acme/b:latest: can't be removed: not in the lock file"),
        (locked("a", needed="n"), "", "n", "nobody requested it, it is needed by docker.io/acme/a:latest"),
    ],
)
def test_what_isnt_locked_can_neither_move_nor_go(old: Lockfile | None, moved: str, removed: str, says: str) -> None:
    with pytest.raises(LadingError, match=says):
        plan_lock(old, [], list(map(ref, moved)), list(map(ref, removed)), is_exact=False, update=bool(moved))


def test_nothing_to_lock_is_wrong_usage() -> None:
    with pytest.raises(click.UsageError):
        plan_lock(None, [], [], [], is_exact=False, update=False)


class Team:
    """An agent ``lead`` that needs ``writer``, and ``other``, in a registry; and the lock file of whoever uses them."""

    def __init__(self, registry: EmbeddedRegistry, lading: Shell) -> None:
        self.registry = registry
        self.lading = lading
        self.path = lading.directory / "agents.lock"
        self.digests = {name: self.publish(name) for name in ("writer", "other")}
        self.digests["lead"] = self.publish("lead", "writer")

    def ref(self, name: str) -> str:
        return f"{self.registry.host}/acme/{name}:v1"

    def publish(self, name: str, *subs: str, model: str = "m") -> str:
        names = json.dumps([self.ref(sub) for sub in subs])
        content = f"agents: {{root: {{model: {model}, sub_agents: {names}}}}} # {name}\n"
        return publish(self.registry, content.encode(), f"acme/{name}")

    async def lock(self, *arguments: str) -> Finished:
        return await self.lading("lock", *(self.ref(one) if one in self.digests else one for one in arguments))

    def locked(self) -> dict[str, str]:
        return {
            str(entry.reference).split("/")[-1].removesuffix(":v1"): str(entry.digest)
            for entry in Lockfile.read(self.path).entries
        }


@pytest.fixture
def team(registry: EmbeddedRegistry, lading: Shell) -> Team:
    return Team(registry, lading)


def short(digest: str) -> str:
    return digest[: len("sha256:") + 12]


async def test_a_lock_is_added_to_and_stays_what_it_is(team: Team) -> None:
    done = await team.lock("lead")
    assert (done.status, done.out.decode().splitlines()) == (
        0,
        [f"+ {team.ref(name)} {short(team.digests[name])}" for name in ("lead", "writer")],
    ), done.err
    assert done.err == "agents.lock: 2 added; 1 requested, 2 in all\n"
    moved = team.publish("writer", model="new")
    again = await team.lock("other")
    assert again.out.decode() == f"+ {team.ref('other')} {short(team.digests['other'])}\n"
    assert team.locked() == team.digests
    # Moved when told to.
    one = await team.lock("--update", "other")
    assert (one.out, one.err) == (b"", "agents.lock: no change\n")
    two = await team.lock("--update", "writer")
    assert two.out.decode() == f"~ {team.ref('writer')} {short(team.digests['writer'])} → {short(moved)}\n"
    assert two.err == "agents.lock: 1 moved; 2 requested, 3 in all\n"
    assert team.locked() == {**team.digests, "writer": moved}


async def test_what_nobody_needs_any_more_goes(team: Team) -> None:
    await team.lock("lead", "other")
    moved = team.publish("lead")
    done = await team.lock("--update", "--remove", "other", "--json")
    assert [json.loads(line) for line in done.out.splitlines()] == [
        {"change": kind, "reference": team.ref(name), "old": team.digests[name], "new": new, "requested": bool(new)}
        for kind, name, new in [("moved", "lead", moved), ("removed", "other", None), ("removed", "writer", None)]
    ]
    assert team.locked() == {"lead": moved}


async def test_a_file_says_all_that_is_requested(team: Team) -> None:
    await team.lock("other")
    (team.lading.directory / "agents.txt").write_text(f"# ours\n{team.ref('lead')}\n")
    done = await team.lock("-f", "agents.txt", "--lock-file", "agents.lock")
    assert done.err == "agents.lock: 2 added, 1 removed; 1 requested, 2 in all\n"
    assert set(team.locked()) == {"lead", "writer"}
    # Requested as well as needed is a change of the file, of no digest.
    done = await team.lock("writer")
    assert (done.out, done.err) == (b"", "agents.lock: written anew, no digest changed; 2 requested, 2 in all\n")


async def test_a_file_that_says_so_already_isnt_written(team: Team) -> None:
    await team.lock("lead")
    os.utime(team.path, ns=(1, 1))
    for arguments in (["lead"], ["--update"]):
        done = await team.lock(*arguments)
        assert (done.status, done.out, done.err) == (0, b"", "agents.lock: no change\n")
    assert team.path.stat().st_mtime_ns == 1


async def test_a_failure_leaves_the_file_alone_and_all_are_named(team: Team) -> None:
    await team.lock("lead")
    before = team.path.read_bytes()
    (team.lading.directory / "agents.txt").write_text(f"UPPER\n{team.ref('none')}\n{team.ref('nil')}\n")
    done = await team.lock("-f", "agents.txt")
    assert (done.status, done.out) == (1, b"")
    for failed in ("agents.txt:1: reference 'UPPER'", f"{team.ref('none')}: ", f"{team.ref('nil')}: "):
        assert f"lading: error: {failed}" in done.err
    assert done.err.endswith("agents.lock stays as it was\n")
    assert team.path.read_bytes() == before
    assert sorted(path.name for path in team.lading.directory.iterdir()) == ["agents.lock", "agents.txt"]


async def test_an_interrupt_leaves_the_file_alone(team: Team) -> None:
    await team.lock("other")
    before = team.path.read_bytes()
    reached, never = anyio.Event(), anyio.Event()

    async def hang(request: web.Request, record: RecordedRequest) -> None:
        reached.set()
        await never.wait()

    team.registry.intercept = hang
    command = [sys.executable, "-m", "lading", "lock", team.ref("lead")]
    async with await anyio.open_process(command, cwd=team.lading.directory, env=team.lading.env) as process:
        assert process.stderr is not None
        with anyio.fail_after(30):
            await reached.wait()
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 130
        assert b"agents.lock stays as it was" in b"".join([chunk async for chunk in process.stderr])
    assert team.path.read_bytes() == before


@pytest.mark.parametrize(
    "arguments",
    [[], ["--update"], ["-f", os.devnull], ["a b"], ["-f", os.devnull, "--remove", "acme/a"], ["--lock-file", "", "a"]],
)
async def test_wrong_usage(lading: Shell, arguments: list[str]) -> None:
    done = await lading("lock", *arguments)
    assert (done.status, done.out) == (2, b"")
    assert "Usage: lading lock" in done.err
    assert not list(lading.directory.iterdir())


@pytest.mark.parametrize("where", ["no/such/agents.lock", "."])
async def test_where_it_cant_be_written_nothing_is_asked_for(team: Team, where: str) -> None:
    done = await team.lock("lead", "--lock-file", where)
    assert done.status == 1
    assert done.err.startswith(f"lading: error: {where}: ")
    team.registry.assert_requests()


async def test_a_damaged_lock_file_is_an_error_and_says_what_to_do(team: Team) -> None:
    team.path.write_text("<<<<<<< ours\nversion = 1\n")
    for arguments in (
        ["lock", "a"],
        ["prefetch", "a", "--locked", "agents.lock"],
        ["tree", "a", "--locked", "agents.lock"],
    ):
        done = await team.lading(*arguments)
        assert done.status == 1
        assert done.err.startswith("lading: error: agents.lock: not TOML")
        assert "resolve the conflict" in done.err


async def test_without_network_what_the_store_has_can_be_locked(team: Team) -> None:
    await team.lock("lead", "other")
    team.registry.clear_requests()
    done = await team.lock("--remove", "other", "--offline")
    assert done.out.decode() == f"- {team.ref('other')}\n", done.err
    refused = await team.lock("other", "--offline")
    assert refused.status == 1
    assert "switched off" in refused.err
    team.registry.assert_requests()


async def test_pull_and_cat_give_what_is_locked(team: Team) -> None:
    await team.lock("lead")
    first = (await team.lading("cat", team.ref("lead"))).out
    moved = team.publish("lead", model="new")
    second = (await team.lading("cat", team.ref("lead"))).out
    assert first != second
    team.registry.clear_requests()
    locked = ["--locked", "agents.lock"]
    for more in ([], ["--offline"]):
        done = await team.lading("cat", team.ref("lead"), *locked, *more)
        assert (done.status, done.out, done.err) == (0, first, "")
    done = await team.lading("pull", team.ref("lead"), "-o", "lead.yaml", *locked, "--offline")
    assert (done.status, done.out) == (0, b"lead.yaml\n")
    assert done.err == f"{team.ref('lead')}: {team.digests['lead']} (cached under its digest)\n"
    assert (team.lading.directory / "lead.yaml").read_bytes() == first
    for verb in ("cat", "pull"):
        other = team.ref("other")
        done = await team.lading(verb, other, *locked)
        assert (done.status, done.out) == (1, b"")
        assert done.err == f"lading: error: {other}: not in the lock file\n  hint: add it: lading lock {other}\n"
    team.registry.assert_requests()
    await team.lock("--update")
    assert team.locked()["lead"] == moved


async def test_a_machine_without_a_store_pulls_what_is_locked_by_its_digest(team: Team) -> None:
    await team.lock("lead")
    team.publish("lead", model="new")
    team.lading.env["LADING_HOME"] += "-of-another-machine"
    team.registry.clear_requests()
    done = await team.lading("pull", team.ref("lead"), "--locked", "agents.lock", "--json")
    assert json.loads(done.out)["digest"] == team.digests["lead"]
    team.registry.assert_requests("GET manifest", "GET blob")
