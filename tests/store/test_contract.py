"""What every store does: the same suite for the one in memory and the one on disk."""

from __future__ import annotations

import random
import threading
from dataclasses import replace
from itertools import pairwise

import anyio
import anyio.to_thread
import artifacts
import pytest
from store.cargo import LAYER, NOON, Agent, agent, blob, described, shown, take

from lading.errors import DigestMismatch, SizeMismatch, StoreError
from lading.oci.digest import Digest
from lading.oci.media_types import OCI_INDEX, OCI_MANIFEST
from lading.oci.reference import Reference
from lading.store.gc import Collected
from lading.store.store import (
    ABSENT,
    INLINE_LIMIT,
    NEVER,
    NOTE_LIMIT,
    NOTES_LIMIT,
    Absent,
    Changes,
    Intact,
    Inventory,
    Lost,
    Record,
    Seen,
    Store,
    use,
)

MIB = 1024 * 1024
IMAGE = "ghcr.io/acme/image"
SIZES = [0, 1, 4096, INLINE_LIMIT - 1, INLINE_LIMIT, INLINE_LIMIT + 1, 3 * MIB]


def test_an_empty_store_knows_nothing(store: Store) -> None:
    one = agent()
    assert store.resolve(one.reference) is ABSENT
    assert store.resolve(one.reference.at(one.digest)) is ABSENT
    assert store.read(one.name, one.digest) is ABSENT
    assert store.repositories("ghcr.io", one.digest) == []


async def test_what_is_committed_is_given_back(store: Store) -> None:
    one, other = agent(1), agent(2)
    await store.commit(one.changes())
    await store.commit(other.changes(durable=False))
    assert one.is_in(store)
    assert other.is_in(store)


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("size", SIZES)
async def test_content_of_every_size(store: Store, size: int, algorithm: str) -> None:
    content = blob(size)
    digest = Digest.of(content, algorithm)
    await store.commit(
        Changes(validated=NOON, content=((digest, content),), seen=(Seen(IMAGE, digest, LAYER),)),
    )
    assert store.read(IMAGE, digest) == Intact(content)


@pytest.mark.parametrize("elsewhere", ["ghcr.io/acme/other", "docker.io/acme/image", "ghcr.io/acme/image2"])
@pytest.mark.parametrize("size", [100, INLINE_LIMIT + 1])
async def test_content_is_absent_where_it_was_not_seen(store: Store, elsewhere: str, size: int) -> None:
    content = blob(size)
    digest = Digest.of(content)
    await store.commit(Changes(validated=NOON, content=((digest, content),), seen=(Seen(IMAGE, digest, OCI_MANIFEST),)))
    assert store.read(elsewhere, digest) is ABSENT
    assert store.resolve(Reference.parse(elsewhere).at(digest)) is ABSENT

    await store.commit(Changes(validated=NOON, seen=(Seen(elsewhere, digest, OCI_MANIFEST),)))
    assert store.read(elsewhere, digest) == Intact(content)


async def test_content_that_was_seen_nowhere_is_absent(store: Store) -> None:
    content = blob(10)
    await store.commit(Changes(validated=NOON, content=((Digest.of(content), content),)))
    assert store.read(IMAGE, Digest.of(content)) is ABSENT


async def test_what_was_seen_but_never_fetched_is_known_and_can_not_be_read(store: Store) -> None:
    digest = Digest.of(b"elsewhere")
    await store.commit(Changes(validated=NOON, seen=(Seen(IMAGE, digest, OCI_INDEX),)))
    assert store.resolve(Reference.parse(f"{IMAGE}@{digest}")) == Record(digest, OCI_INDEX, NOON)
    assert store.read(IMAGE, digest) is ABSENT


async def test_a_pinned_reference_is_known_by_its_digest_whatever_the_tag_says(store: Store) -> None:
    one = agent()
    await store.commit(one.changes())
    assert store.resolve(one.reference.at(one.digest)) == one.record
    assert store.resolve(Reference.parse(f"{one.name}:other@{one.digest}")) == one.record
    assert store.resolve(Reference.parse(f"{one.name}:other")) is ABSENT
    assert store.resolve(Reference.parse(f"{one.name}:v1@{one.layer_digest}")) == Record(one.layer_digest, LAYER, NOON)


async def test_no_tag_is_latest(store: Store) -> None:
    content = b"manifest"
    digest = Digest.of(content)
    await store.commit(Changes(validated=NOON, references=((Reference.parse(IMAGE), digest, OCI_MANIFEST),)))
    assert store.resolve(Reference.parse(f"{IMAGE}:latest")) == Record(digest, OCI_MANIFEST, NOON)


async def test_a_later_commit_renews_the_stamp(store: Store) -> None:
    one = agent()
    await store.commit(one.changes())
    later = Agent(one.reference, one.manifest, one.layer, NOON + 60.5)
    await store.commit(
        Changes(
            validated=later.validated,
            seen=(Seen(one.name, one.digest, OCI_MANIFEST),),
            references=((one.reference, one.digest, OCI_MANIFEST),),
        )
    )
    assert later.is_in(store)
    assert store.resolve(one.reference.at(one.digest)) == later.record
    assert store.resolve(one.reference.at(one.layer_digest)) == Record(one.layer_digest, LAYER, NOON)


async def test_a_tag_moves_and_what_it_left_stays(store: Store) -> None:
    old = agent()
    new = Agent(old.reference, b"another manifest", b"another layer", NOON + 1)
    await store.commit(old.changes())
    await store.commit(new.changes())
    assert new.is_in(store)
    assert store.resolve(old.reference.at(old.digest)) == old.record
    assert store.read(old.name, old.layer_digest) == Intact(old.layer)


async def test_a_commit_may_be_repeated(store: Store) -> None:
    one, large = agent(), agent(1, size=INLINE_LIMIT + 1)
    descriptor = await take(store, blob(MIB))
    for _ in range(3):
        await store.commit(one.changes())
        await store.commit(large.changes())
        await store.commit(shown(descriptor, IMAGE))
    assert one.is_in(store)
    assert large.is_in(store)
    assert store.read(IMAGE, descriptor.digest) == Intact(blob(MIB))


async def test_an_empty_commit_changes_nothing(store: Store) -> None:
    await store.commit(Changes(validated=NOON))
    assert store.resolve(agent().reference) is ABSENT


async def test_the_repositories_of_a_registry(store: Store) -> None:
    digest = Digest.of(b"shared")
    names = ["ghcr.io/b/two", "ghcr.io/a/one", "ghcr.io:5000/c/three", "docker.io/library/four", "ghcr.io/a/one/x"]
    await store.commit(Changes(validated=NOON, seen=tuple(Seen(name, digest, LAYER) for name in names)))
    await store.commit(Changes(validated=NOON, seen=(Seen("ghcr.io/z/z", Digest.of(b"other"), LAYER),)))
    assert store.repositories("ghcr.io", digest) == ["a/one", "a/one/x", "b/two"]
    assert store.repositories("ghcr.io:5000", digest) == ["c/three"]
    assert store.repositories("quay.io", digest) == []


async def test_concurrent_commits_all_become_true(store: Store) -> None:
    agents = [agent(number, size=size) for number, size in enumerate([10, INLINE_LIMIT + 1] * 20)]
    async with anyio.create_task_group() as group:
        for one in agents:
            group.start_soon(store.commit, one.changes())
    assert all(one.is_in(store) for one in agents)


async def test_look_ups_from_threads_while_commits_go_on(store: Store) -> None:
    one = agent()
    await store.commit(one.changes())
    done = threading.Event()
    wrong: list[object] = []

    def look() -> None:
        while not done.is_set():
            if not one.is_in(store) or store.repositories("ghcr.io", one.digest) != ["acme/agent0"]:
                wrong.append(store.resolve(one.reference))

    async with anyio.create_task_group() as group:
        for _ in range(2):
            group.start_soon(anyio.to_thread.run_sync, look)
        for number in range(1, 30):
            await store.commit(agent(number).changes())
        done.set()
    assert wrong == []


# Ingest


@pytest.mark.parametrize(
    ("size", "chunk"),
    [(0, 1), (1, 1), (5000, 1), (INLINE_LIMIT, 1000), (MIB, 65536), (MIB + 1, 65536), (3 * MIB, 3 * MIB)],
)
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_a_blob_arrives_in_chunks(store: Store, size: int, chunk: int, algorithm: str) -> None:
    content = blob(size)
    descriptor = described(content, algorithm)
    async with store.ingest(descriptor) as ingest:
        for start in range(0, size, chunk):
            await ingest.write(content[start : start + chunk])
        await ingest.finish()
    assert store.read(IMAGE, descriptor.digest) is ABSENT
    await store.commit(shown(descriptor, IMAGE))
    assert store.read(IMAGE, descriptor.digest) == Intact(content)


async def test_a_blob_and_what_refers_to_it_in_one_commit(store: Store) -> None:
    one, content = agent(), blob(2 * MIB)
    descriptor = described(content)
    async with store.ingest(descriptor) as ingest:
        await ingest.write(content)
        await ingest.finish()
    await store.commit(
        Changes(
            validated=NOON,
            content=((one.digest, one.manifest),),
            blobs=(descriptor,),
            seen=(Seen(one.name, one.digest, OCI_MANIFEST), Seen(one.name, descriptor.digest, LAYER)),
            references=((one.reference, one.digest, OCI_MANIFEST),),
            links=((one.digest, descriptor.digest),),
        )
    )
    assert store.resolve(one.reference) == one.record
    assert store.read(one.name, descriptor.digest) == Intact(content)


@pytest.mark.parametrize("size", [0, 10, 2 * MIB])
async def test_a_blob_that_is_too_long_is_refused_at_the_first_byte_too_many(store: Store, size: int) -> None:
    content = blob(size)
    async with store.ingest(described(content)) as ingest:
        await ingest.write(content)
        with pytest.raises(SizeMismatch, match=f"more than {size} bytes"):
            await ingest.write(b"x")
    await refused(store, content)


@pytest.mark.parametrize("size", [1, 10, 2 * MIB])
async def test_a_blob_that_is_too_short_is_refused(store: Store, size: int) -> None:
    content = blob(size)
    async with store.ingest(described(content)) as ingest:
        await ingest.write(content[:-1])
        with pytest.raises(SizeMismatch, match=f"{size - 1} bytes instead of {size}"):
            await ingest.finish()
    await refused(store, content)


@pytest.mark.parametrize("size", [1, 10, 2 * MIB])
async def test_a_blob_that_is_something_else_is_refused(store: Store, size: int) -> None:
    content = blob(size)
    async with store.ingest(described(content)) as ingest:
        await ingest.write(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(DigestMismatch, match=str(Digest.of(content))):
            await ingest.finish()
    await refused(store, content)


@pytest.mark.parametrize("written", [0, 1, MIB, 2 * MIB])
async def test_a_blob_that_was_left_unfinished_is_refused(store: Store, written: int) -> None:
    content = blob(2 * MIB)
    async with store.ingest(described(content)) as ingest:
        if written:
            await ingest.write(content[:written])
    await refused(store, content)


async def refused(store: Store, content: bytes) -> None:
    """It can't be committed, nothing that comes with it becomes true, and the right content is still welcome."""
    one, descriptor = agent(7), described(content)
    changes = one.changes()
    with pytest.raises(StoreError, match=str(descriptor.digest)):
        await store.commit(
            Changes(
                validated=NOON,
                content=changes.content,
                blobs=(descriptor,),
                seen=(*changes.seen, Seen(IMAGE, descriptor.digest, LAYER)),
                references=changes.references,
            )
        )
    assert store.resolve(one.reference) is ABSENT
    assert store.read(one.name, one.digest) is ABSENT
    assert store.read(IMAGE, descriptor.digest) is ABSENT
    await take(store, content, IMAGE)
    assert store.read(IMAGE, descriptor.digest) == Intact(content)


@pytest.mark.parametrize("size", [1, 5000, INLINE_LIMIT + 1, 3 * MIB])
async def test_an_ingest_tells_where_to_go_on(store: Store, size: int) -> None:
    content = blob(size)
    async with store.ingest(described(content)) as ingest:
        assert (ingest.received, ingest.is_complete, ingest.etag) == (0, False, "")
        await ingest.note_etag('"v1"')
        await ingest.note_etag("not one")
        await ingest.write(b"")
        while ingest.received < size:
            await ingest.write(content[ingest.received :][: size // 3 + 1])
        assert (ingest.received, ingest.is_complete, ingest.etag) == (size, False, '"v1"')
        await ingest.finish()
        assert (ingest.received, ingest.is_complete) == (size, True)
        await ingest.write(b"ignored")
        await ingest.write_at(0, b"ignored")
        await ingest.restart()
        await ingest.finish()
    await store.commit(shown(described(content), IMAGE))
    assert store.read(IMAGE, Digest.of(content)) == Intact(content)


@pytest.mark.parametrize("size", [6, 6000, INLINE_LIMIT + 4, 3 * MIB])
@pytest.mark.parametrize("seed", range(6))
async def test_a_blob_arrives_out_of_order(store: Store, size: int, seed: int) -> None:
    content, chance = blob(size), random.Random(seed)
    edges = sorted({0, size, *(chance.randrange(size) for _ in range(20))})
    pieces = list(pairwise(edges))
    chance.shuffle(pieces)
    there = bytearray(size + 1)
    async with store.ingest(described(content)) as ingest:
        for begin, end in pieces:
            await ingest.write_at(begin, content[begin:end])
            there[begin:end] = b"x" * (end - begin)
            assert ingest.received == there.index(0)
        await ingest.finish()
    await store.commit(shown(described(content), IMAGE))
    assert store.read(IMAGE, Digest.of(content)) == Intact(content)


@pytest.mark.parametrize("size", [100, 3 * MIB])
async def test_bytes_that_are_there_are_not_taken_again(store: Store, size: int) -> None:
    content, part = blob(size), size // 10
    async with store.ingest(described(content)) as ingest:
        await ingest.write(content[: 2 * part])
        await ingest.write_at(4 * part, content[4 * part : 6 * part])
        for begin, end in [(0, 1), (part, 3 * part), (2 * part, 5 * part), (5 * part, 7 * part), (3 * part, 7 * part)]:
            with pytest.raises(ValueError, match="already there"):
                await ingest.write_at(begin, content[begin:end])
        with pytest.raises(ValueError, match="already there"):
            await ingest.write_at(2 * part - 1, b"")
        with pytest.raises(ValueError, match="already there"):
            await ingest.write(content[2 * part : 5 * part])
        with pytest.raises(SizeMismatch, match=f"more than {size} bytes"):
            await ingest.write_at(size, b"x")
        assert ingest.received == 2 * part
        await ingest.write(content[2 * part : 4 * part])
        assert ingest.received == 6 * part
        with pytest.raises(SizeMismatch, match=f"{6 * part} bytes instead of {size}"):
            await ingest.finish()
        await ingest.write(content[6 * part :])
        await ingest.finish()


@pytest.mark.parametrize("size", [100, INLINE_LIMIT + 1, 3 * MIB])
async def test_an_ingest_begins_again(store: Store, size: int) -> None:
    content = blob(size)
    async with store.ingest(described(content)) as ingest:
        await ingest.restart()
        await ingest.note_etag('"v1"')
        await ingest.write_at(size // 2, bytes(size // 2))
        await ingest.write(content[: size // 3])
        await ingest.restart()
        assert (ingest.received, ingest.etag) == (0, "")
        await ingest.write(bytes(size))
        with pytest.raises(DigestMismatch):
            await ingest.finish()
        assert (ingest.received, ingest.is_complete) == (0, False)
        await ingest.write(content)
        await ingest.finish()
    await store.commit(shown(described(content), IMAGE))
    assert store.read(IMAGE, Digest.of(content)) == Intact(content)


async def test_one_blob_may_arrive_several_times_at_once(store: Store) -> None:
    content = blob(2 * MIB)
    async with anyio.create_task_group() as group:
        for number in range(4):
            group.start_soon(take, store, content, f"ghcr.io/acme/image{number}")
    for number in range(4):
        assert store.read(f"ghcr.io/acme/image{number}", Digest.of(content)) == Intact(content)


async def test_a_store_may_be_closed_twice(store: Store) -> None:
    await store.commit(agent().changes())
    await store.aclose()
    await store.aclose()


async def test_references_are_listed_by_name(store: Store) -> None:
    one = agent()
    assert store.references() == []
    names = [Reference.parse(f"ghcr.io/acme/{name}") for name in ("z:v1", "a:v2", "a:v1")]
    await store.commit(Changes(NOON, references=tuple((name, one.digest, OCI_MANIFEST) for name in names)))
    assert store.references() == [(name, Record(one.digest, OCI_MANIFEST, NOON)) for name in sorted(names, key=str)]


async def test_a_forgotten_tag_takes_what_it_stood_for_with_it(store: Store) -> None:
    one, other = agent(1), agent(2)
    await store.commit(one.changes())
    await store.commit(other.changes())
    await store.commit(Changes(NOON, forgotten=(one.reference,)))
    assert store.resolve(one.reference) is ABSENT
    assert store.resolve(one.reference.at(one.digest)) is ABSENT
    assert store.read(one.name, one.digest) is ABSENT
    assert other.is_in(store)


async def test_what_another_tag_stands_for_stays(store: Store) -> None:
    one = agent()
    await store.commit(one.changes())
    latest = Reference.parse(f"{one.name}:latest")
    await store.commit(Changes(NOON, references=((latest, one.digest, OCI_MANIFEST),)))
    await store.commit(Changes(NOON, forgotten=(one.reference,)))
    assert store.resolve(one.reference) is ABSENT
    assert store.resolve(latest.at(one.digest)) == Record(one.digest, OCI_MANIFEST, NOON)
    await store.commit(Changes(NOON, forgotten=(latest.at(one.digest),)))
    assert store.resolve(latest.at(one.digest)) != ABSENT, "the tag still stands for it"
    await store.commit(Changes(NOON, forgotten=(latest,)))
    assert store.resolve(latest.at(one.digest)) is ABSENT


async def test_a_digest_is_forgotten_in_its_repository_only(store: Store) -> None:
    one = agent()
    await store.commit(one.changes())
    other = Seen("ghcr.io/acme/elsewhere", one.digest, OCI_MANIFEST)
    await store.commit(Changes(NOON, seen=(other,), forgotten=(one.reference,)))
    assert store.resolve(Reference.parse(other.name).at(one.digest)) == Record(one.digest, OCI_MANIFEST, NOON)


async def test_forgetting_what_isnt_known_does_nothing(store: Store) -> None:
    one = agent()
    await store.commit(Changes(NOON, forgotten=(one.reference, one.reference.at(one.digest))))
    assert store.references() == []


# Notes


def noted(*notes: tuple[str, str, str | None], durable: bool = False) -> Changes:
    return Changes(NOON, notes=notes, durable=durable)


def test_an_empty_store_recalls_nothing(store: Store) -> None:
    assert store.recall("kind", "key") is None


async def test_a_note_is_recalled_replaced_and_forgotten(store: Store) -> None:
    await store.commit(noted(("kind", "key", "value"), ("kind", "other", ""), ("other", "key", "größer 🚢\0\n")))
    assert [store.recall(*note) for note in (("kind", "key"), ("kind", "other"))] == ["value", ""]
    assert store.recall("other", "key") == "größer 🚢\0\n"
    assert store.recall("kind", "ke") is store.recall("", "key") is store.recall("KIND", "key") is None
    await store.commit(noted(("kind", "key", "another")))
    assert store.recall("kind", "key") == "another"
    await store.commit(noted(("kind", "key", None), ("kind", "unknown", None)))
    assert store.recall("kind", "key") is None
    assert store.recall("kind", "other") == ""


async def test_of_several_notes_the_last_one_counts(store: Store) -> None:
    await store.commit(noted(("kind", "a", "1"), ("kind", "a", None), ("kind", "b", None), ("kind", "b", "2")))
    assert (store.recall("kind", "a"), store.recall("kind", "b")) == (None, "2")


async def test_notes_come_with_everything_else(store: Store) -> None:
    one = agent()
    changes = one.changes()
    await store.commit(replace(changes, notes=(("kind", "key", "value"),)))
    assert one.is_in(store)
    assert store.recall("kind", "key") == "value"
    await store.commit(Changes(NOON, forgotten=(one.reference,)))
    assert store.recall("kind", "key") == "value"


async def test_notes_of_concurrent_commits(store: Store) -> None:
    async with anyio.create_task_group() as group:
        for number in range(40):
            group.start_soon(store.commit, noted(("kind", str(number), str(number)), ("kind", "all", str(number))))
    assert [store.recall("kind", str(number)) for number in range(40)] == [str(number) for number in range(40)]
    assert store.recall("kind", "all") is not None


LONG = "x" * NOTE_LIMIT


@pytest.mark.parametrize(
    ("note", "why"),
    [
        (("kind", "key", LONG + "x"), "more than 4096 bytes"),
        (("kind", "key", "ö" + LONG[1:]), "more than 4096 bytes"),
        (("kind", LONG + "x", "value"), "more than 4096 bytes"),
        (("kind", LONG + "x", None), "more than 4096 bytes"),
        (("kind", "key", "planted\ud800"), "isn't Unicode text"),
        (("kind", "planted\ud800", "value"), "isn't Unicode text"),
    ],
)
async def test_a_note_that_can_not_be_stored(store: Store, note: tuple[str, str, str | None], why: str) -> None:
    one = agent()
    with pytest.raises(StoreError, match=why) as caught:
        await store.commit(replace(one.changes(), notes=(("kind", "good", "value"), note)))
    assert "planted" not in str(caught.value)
    assert store.resolve(one.reference) is ABSENT
    assert store.recall("kind", "good") is None
    await store.commit(noted(("kind", "key", LONG), ("kind", LONG, "value")))
    assert (store.recall("kind", "key"), store.recall("kind", LONG)) == (LONG, "value")


async def test_of_too_many_notes_of_a_kind_the_oldest_go(store: Store) -> None:
    await store.commit(noted(("kind", "written again", "1"), ("kind", "oldest", "1"), ("other", "oldest", "1")))
    await store.commit(noted(("kind", "next", "1"), ("kind", "written again", "2")))
    many = tuple(("kind", str(number), "x") for number in range(NOTES_LIMIT - 2))
    await store.commit(noted(*many))
    assert store.recall("kind", "oldest") is None
    assert store.recall("kind", "next") == "1"
    await store.commit(noted(("kind", "one more", "x")))
    assert store.recall("kind", "next") is None
    kept = ["written again", "one more", "0", str(NOTES_LIMIT - 3)]
    assert [store.recall("kind", key) for key in kept] == ["2", "x", "x", "x"]
    assert store.recall("other", "oldest") == "1"
    await store.commit(noted(("kind", "one more", None), ("kind", "the last", "x")))
    assert store.recall("kind", "written again") == "2"


async def test_more_notes_than_are_kept_in_one_commit(store: Store) -> None:
    await store.commit(noted(*(("kind", str(number), "x") for number in range(NOTES_LIMIT + 10))))
    assert [store.recall("kind", str(number)) for number in (0, 9, 10, NOTES_LIMIT + 9)] == [None, None, "x", "x"]


# Everything that there is


@pytest.mark.parametrize("size", [0, 1, INLINE_LIMIT, INLINE_LIMIT + 1, MIB, 3 * MIB + 1])
async def test_content_is_given_in_pieces(store: Store, size: int) -> None:
    content = blob(size)
    digest = Digest.of(content)
    await store.commit(Changes(NOON, content=((digest, content),), seen=(Seen(IMAGE, digest, LAYER),)))
    pieces = store.stream(IMAGE, digest)
    assert not isinstance(pieces, Absent)
    given = list(pieces)
    assert b"".join(given) == content
    assert max(map(len, given)) <= MIB
    assert store.stream("ghcr.io/acme/other", digest) is ABSENT
    assert store.stream(IMAGE, Digest.of(b"nothing")) is ABSENT


async def test_the_inventory_of_an_empty_store(store: Store) -> None:
    assert store.inventory() == Inventory()
    assert store.check(Digest.of(b"x"), lambda size: None) is ABSENT
    assert store.places(Digest.of(b"x")) == []


async def test_the_inventory_lists_everything_once(store: Store) -> None:
    agents = [agent(1), agent(2, size=INLINE_LIMIT + 1)]
    for one in agents:
        await store.commit(one.changes())
    hidden = blob(10, 3)
    await store.commit(Changes(NOON, content=((Digest.of(hidden), hidden),)))
    found = store.inventory()
    assert found.references == tuple((one.reference, one.record) for one in agents)
    contents = [content for one in agents for content in (one.manifest, one.layer)] + [hidden]
    assert dict(found.contents) == {Digest.of(content): len(content) for content in contents}
    assert list(found.contents) == sorted(found.contents, key=lambda held: str(held[0]))
    assert (found.strays, found.damage) == ((), ())


@pytest.mark.parametrize("size", [0, 10, INLINE_LIMIT + 1, 3 * MIB])
async def test_content_is_checked_wherever_it_was_seen(store: Store, size: int) -> None:
    content = blob(size)
    digest = Digest.of(content)
    await store.commit(Changes(NOON, content=((digest, content),)))
    told: list[int] = []
    assert store.check(digest, told.append) == size
    assert sum(told) == size

    def stop(size: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.check(digest, stop)


async def test_the_places_that_content_was_seen_in(store: Store) -> None:
    digest = Digest.of(b"shared")
    names = ["ghcr.io/b/two", "docker.io/library/one", "ghcr.io/a/one"]
    await store.commit(Changes(NOON, seen=tuple(Seen(name, digest, LAYER) for name in names)))
    await store.commit(Changes(NOON, seen=(Seen("ghcr.io/z/z", Digest.of(b"other"), LAYER),)))
    assert store.places(digest) == sorted(names)


# Garbage

DAY = 86_400.0
OLD = NOON - 30 * DAY


async def collect(store: Store, **limits: float | None) -> Collected:
    """Collect, and see that it does what it said that it would, and has nothing more to do then."""
    limits = {"now": NOON, **limits}
    would = await store.collect(dry_run=True, **limits)  # type: ignore[arg-type]
    assert await store.collect(dry_run=True, **limits) == would  # type: ignore[arg-type]
    done = await store.collect(**limits)  # type: ignore[arg-type]
    assert done == would
    again = await store.collect(**limits)  # type: ignore[arg-type]
    assert (again.references, again.contents, again.files) == ((), (), ())
    assert (again.references_left, again.bytes_left) == (done.references_left, done.bytes_left)
    return done


def sizes(*contents: bytes) -> dict[Digest, int]:
    return {Digest.of(content): len(content) for content in contents}


async def test_of_nothing_nothing_is_collected(store: Store) -> None:
    assert await collect(store) == Collected((), (), (), 0, 0)
    assert await collect(store, older_than=0, max_size=0) == Collected((), (), (), 0, 0)


@pytest.mark.parametrize("size", [500, INLINE_LIMIT + 1])
async def test_what_a_reference_reaches_is_never_collected(store: Store, size: int) -> None:
    one = agent(size=size)
    await store.commit(one.changes())
    assert await collect(store) == Collected((), (), (), 1, size + len(one.manifest))
    assert one.is_in(store)


@pytest.mark.parametrize("size", [500, INLINE_LIMIT + 1])
async def test_what_a_tag_left_is_collected(store: Store, size: int) -> None:
    old, other = agent(size=size), agent(1, size=size)
    new = Agent(old.reference, b"another manifest", old.layer, NOON)
    for one in (old, other, new):
        await store.commit(one.changes())
    done = await collect(store)
    assert dict(done.contents) == sizes(old.manifest)
    assert (done.freed, done.references_left) == (len(old.manifest), 2)
    assert new.is_in(store)
    assert other.is_in(store)
    assert store.resolve(old.reference.at(old.digest)) is ABSENT
    assert store.read(old.name, old.digest) is ABSENT
    assert store.check(old.digest, lambda size: None) is ABSENT
    assert store.places(old.digest) == []
    await store.commit(old.changes())
    assert old.is_in(store)


@pytest.mark.parametrize("size", [500, INLINE_LIMIT + 1])
async def test_a_forgotten_reference_takes_all_that_only_it_needed(store: Store, size: int) -> None:
    one, other = agent(size=size), agent(1)
    sharing = Agent(Reference.parse("ghcr.io/acme/sharing:v1"), b"a third manifest", one.layer)
    for each in (one, other, sharing):
        await store.commit(each.changes())
    await store.commit(Changes(NOON, forgotten=(one.reference, other.reference)))
    assert dict((await collect(store)).contents) == sizes(one.manifest, other.manifest, other.layer)
    assert sharing.is_in(store)


async def test_a_digest_that_was_pulled_pinned_stays(store: Store) -> None:
    one = agent()
    pinned = one.reference.at(one.digest)
    await store.commit(replace(one.changes(), references=((pinned, one.digest, OCI_MANIFEST),)))
    assert (await collect(store)).contents == ()
    assert store.read(one.name, one.layer_digest) == Intact(one.layer)
    done = await collect(store, older_than=DAY, now=NOON + 2 * DAY)
    assert done.references == (pinned,)
    assert dict(done.contents) == sizes(one.manifest, one.layer)


async def test_what_was_only_seen_is_no_reason_to_keep_it(store: Store) -> None:
    content = blob(500)
    await store.commit(
        Changes(NOON, content=((Digest.of(content), content),), seen=(Seen(IMAGE, Digest.of(content), OCI_MANIFEST),))
    )
    assert dict((await collect(store)).contents) == sizes(content)


async def test_where_a_blob_was_seen_that_was_never_here_is_remembered(store: Store) -> None:
    digest = Digest.of(b"elsewhere")
    await store.commit(Changes(NOON, seen=(Seen(IMAGE, digest, LAYER),)))
    await collect(store)
    assert store.repositories("ghcr.io", digest) == ["acme/image"]


@pytest.mark.parametrize("are_linked", [True, False])
@pytest.mark.parametrize("size", [40, INLINE_LIMIT + 1])
async def test_what_manifests_name_stays_with_them(store: Store, size: int, are_linked: bool) -> None:
    layers = [blob(size, number) for number in range(3)]
    manifests = [artifacts.manifest(layer) for layer in layers]
    index = artifacts.index(*manifests[:2])
    root = Reference.parse(f"{IMAGE}:v1")
    contents = [index, *manifests, *layers, b"{}"]
    pairs = [(index, manifests[0]), (index, manifests[1]), *zip(manifests, layers, strict=True)]
    links = [(Digest.of(parent), Digest.of(child)) for parent, child in pairs] if are_linked else []
    await store.commit(
        Changes(
            NOON,
            content=tuple((Digest.of(content), content) for content in contents),
            references=((root, Digest.of(index), OCI_INDEX),),
            links=tuple(links),
        )
    )
    done = await collect(store)
    assert dict(done.contents) == sizes(manifests[2], layers[2])
    assert {digest for digest, _ in store.inventory().contents} == {
        Digest.of(content) for content in contents if content not in (manifests[2], layers[2])
    }


async def test_content_is_given_only_where_a_reference_still_stands_for_it(store: Store) -> None:
    one = agent()
    elsewhere = Agent(Reference.parse("docker.io/acme/copy:v1"), one.manifest, one.layer, OLD)
    await store.commit(one.changes())
    await store.commit(elsewhere.changes())
    done = await collect(store, older_than=DAY)
    assert (done.references, done.contents) == ((elsewhere.reference,), ())
    assert one.is_in(store)
    assert store.resolve(elsewhere.reference.at(one.digest)) is ABSENT
    assert store.resolve(elsewhere.reference) is ABSENT


async def test_of_two_tags_for_one_digest_the_younger_one_keeps_it_known(store: Store) -> None:
    one = agent()
    old = Agent(Reference.parse(f"{one.name}:old"), one.manifest, one.layer, OLD)
    await store.commit(old.changes())
    await store.commit(one.changes())
    assert (await collect(store, older_than=DAY)).references == (old.reference,)
    assert one.is_in(store)
    assert isinstance(store.resolve(one.reference.at(one.digest)), Record)


# Which references go first


def at(number: int, validated: float, size: int = 500) -> Agent:
    return replace(agent(number, size=size), validated=validated)


async def test_references_that_were_not_used_for_some_time_are_forgotten(store: Store) -> None:
    agents = [at(number, NOON - number * DAY) for number in range(5)]
    for one in agents:
        await store.commit(one.changes())
    done = await collect(store, older_than=2 * DAY)
    assert done.references == (agents[3].reference, agents[4].reference)
    assert [one.is_in(store) for one in agents] == [True, True, True, False, False]
    assert dict(done.contents) == sizes(*(content for one in agents[3:] for content in (one.manifest, one.layer)))


async def test_a_clock_that_was_set_back_makes_nothing_old(store: Store) -> None:
    one = at(0, NOON + DAY)
    await store.commit(one.changes())
    assert (await collect(store, older_than=0)).references == ()


async def test_what_was_used_is_not_old(store: Store) -> None:
    imported, served, idle = (at(number, validated) for number, validated in enumerate([NEVER, OLD, OLD]))
    for one in (imported, served, idle):
        await store.commit(replace(one.changes(), notes=(use(one.reference, OLD),)))
    assert [store.last_used(one.reference) for one in (imported, served, idle)] == [OLD, OLD, OLD]
    for one in (imported, served):
        await store.commit(Changes(NOON, notes=(use(one.reference, NOON - DAY),), durable=False))
    assert [store.last_used(one.reference) for one in (imported, served, idle)] == [NOON - DAY, NOON - DAY, OLD]
    assert (await collect(store, older_than=2 * DAY)).references == (idle.reference,)
    assert store.last_used(idle.reference) is None
    assert imported.is_in(store)
    assert served.is_in(store)


async def test_a_confirmation_is_a_use(store: Store) -> None:
    one = at(0, NOON)
    await store.commit(replace(one.changes(), notes=(use(one.reference, OLD),)))
    assert store.last_used(one.reference) == NOON
    assert store.last_used(one.reference.at(one.digest)) is None
    assert (await collect(store, older_than=DAY)).references == ()


async def test_what_is_said_of_a_use_goes_with_the_reference(store: Store) -> None:
    one = agent()
    await store.commit(replace(one.changes(), notes=(use(one.reference, NOON + DAY),)))
    await store.commit(Changes(NOON, forgotten=(one.reference,), notes=(("kind", "key", "value"),)))
    await store.commit(Changes(NOON, notes=(use(agent(1).reference, NOON),)))  # what isn't known
    await store.collect()
    await store.commit(one.changes())
    await store.commit(agent(1).changes())
    assert [store.last_used(agent(number).reference) for number in range(2)] == [NOON, NOON]
    assert store.recall("kind", "key") == "value"


@pytest.mark.parametrize("value", ["", "nan", "inf", "soon", "1e400"])
async def test_a_use_that_makes_no_sense_is_none(store: Store, value: str) -> None:
    one = agent()
    await store.commit(replace(one.changes(), notes=(("used", str(one.reference), value),)))
    assert store.last_used(one.reference) == NOON


async def test_more_uses_are_remembered_than_other_notes(store: Store) -> None:
    one = agent()
    await store.commit(replace(one.changes(), notes=(use(one.reference, NOON + DAY),)))
    many = (Reference.parse(f"ghcr.io/acme/many:{number}") for number in range(NOTES_LIMIT + 1))
    await store.commit(noted(*(use(reference, NOON) for reference in many)))
    assert store.last_used(one.reference) == NOON + DAY


async def test_what_was_used_the_longest_time_ago_makes_room(store: Store) -> None:
    agents = [at(number, NOON - number, size=size) for number, size in enumerate([500, 200_000, 3000, 500])]
    for one in agents:
        await store.commit(one.changes())
    each = [len(one.manifest) + len(one.layer) for one in agents]
    assert (await collect(store, max_size=sum(each))).references == ()
    assert (await collect(store, max_size=sum(each) - 1)).references == (agents[3].reference,)
    done = await collect(store, max_size=each[0] + each[1])
    assert (done.references, done.bytes_left) == ((agents[2].reference,), each[0] + each[1])
    done = await collect(store, max_size=each[0])
    assert (done.references, done.freed) == ((agents[1].reference,), each[1])
    assert agents[0].is_in(store)
    done = await collect(store, max_size=0)
    assert (done.references, done.references_left, done.bytes_left) == ((agents[0].reference,), 0, 0)


async def test_a_reference_that_makes_no_room_is_not_forgotten(store: Store) -> None:
    new, other = at(0, NOON, size=3000), at(1, NOON - 1)
    same = Agent(Reference.parse(f"{new.name}:same"), new.manifest, new.layer, NOON - 2)
    for one in (new, other, same):
        await store.commit(one.changes())
    done = await collect(store, max_size=len(new.manifest) + len(new.layer))
    assert done.references == (other.reference,)
    assert same.is_in(store)


async def test_what_is_shared_goes_with_the_last_one_that_needs_it(store: Store) -> None:
    layer = blob(10_000)
    agents = [Agent(Reference.parse(f"ghcr.io/acme/a{n}:v1"), bytes([n]) * 10, layer, NOON - n) for n in range(3)]
    for one in agents:
        await store.commit(one.changes())
    done = await collect(store, max_size=10_019)
    assert (done.references, done.freed) == ((agents[1].reference, agents[2].reference), 20)
    assert agents[0].is_in(store)


async def test_old_ones_go_before_room_is_made(store: Store) -> None:
    agents = [at(number, NOON - number * DAY) for number in range(4)]
    for one in agents:
        await store.commit(one.changes())
    each = len(agents[0].manifest) + 500
    done = await collect(store, older_than=2.5 * DAY, max_size=2 * each)
    assert done.references == (agents[2].reference, agents[3].reference)


@pytest.mark.parametrize("limits", [{"older_than": -1.0}, {"older_than": float("nan")}, {"max_size": -1}])
async def test_a_limit_that_makes_no_sense_is_refused(store: Store, limits: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be at least 0"):
        await store.collect(**limits)  # type: ignore[arg-type]


# What somebody is at work on


@pytest.mark.parametrize("size", [100, INLINE_LIMIT + 1])
async def test_what_is_leased_stays_until_the_lease_ends(store: Store, size: int) -> None:
    one, content = agent(), blob(size)
    with store.lease() as lease:
        lease.keep([Digest.of(content)])
        lease.keep([])
        await store.commit(
            Changes(NOON, content=((Digest.of(content), content),), seen=(Seen(IMAGE, Digest.of(content), LAYER),))
        )
        await store.commit(one.changes())
        assert (await collect(store, max_size=0)).references == (one.reference,)
        assert store.read(IMAGE, Digest.of(content)) == Intact(content)
    assert dict((await collect(store)).contents) == sizes(content)
    lease.close()
    lease.keep([Digest.of(content)])


async def test_a_lease_keeps_what_lies_below_and_whatever_stands_for_it(store: Store) -> None:
    one, other = agent(), agent(1)
    await store.commit(one.changes())
    await store.commit(other.changes())
    with store.lease() as lease, store.lease() as second:
        lease.keep([one.digest])
        second.keep([one.digest])
        second.close()
        assert (await collect(store, older_than=0, max_size=0, now=NOON + DAY)).references == (other.reference,)
        assert one.is_in(store)
        await store.commit(Changes(NOON, forgotten=(one.reference,)))
        assert (await collect(store)).contents == ()
    assert dict((await collect(store)).contents) == sizes(one.manifest, one.layer)


@pytest.mark.parametrize("size", [100, INLINE_LIMIT + 1, 3 * MIB])
async def test_what_is_on_its_way_arrives(store: Store, size: int) -> None:
    content = blob(size)
    descriptor = described(content)
    async with store.ingest(descriptor) as ingest:
        await collect(store)
        await ingest.write(content[: size // 2])
        await collect(store)
        await ingest.write(content[size // 2 :])
        await ingest.finish()
        await collect(store)
    assert (await collect(store)).freed == 0
    await store.commit(shown(descriptor))
    assert store.read(IMAGE, descriptor.digest) == Intact(content)
    assert dict((await collect(store)).contents) == sizes(content)


async def test_one_who_takes_the_same_content_does_not_end_the_need_of_the_other(store: Store) -> None:
    content = blob(INLINE_LIMIT + 1)
    descriptor = described(content)
    for _ in range(2):
        async with store.ingest(descriptor) as ingest:
            if not ingest.is_complete:
                await ingest.write(content[ingest.received :])
            await ingest.finish()
    await store.commit(Changes(NOON, blobs=(descriptor,)))
    await collect(store)
    await store.commit(shown(descriptor))
    assert store.read(IMAGE, descriptor.digest) == Intact(content)


@pytest.mark.parametrize("size", [100, INLINE_LIMIT + 1])
async def test_a_commit_that_relies_on_what_was_collected_is_refused(store: Store, size: int) -> None:
    one = agent(size=size)
    latest = Reference.parse(f"{one.name}:latest")
    relying = Changes(
        NOON,
        references=((latest, one.digest, OCI_MANIFEST),),
        required=((one.name, one.digest), (one.name, one.layer_digest)),
    )
    await store.commit(one.changes())
    await store.commit(relying)
    await store.commit(Changes(NOON, forgotten=(latest, one.reference)))
    await collect(store)
    with pytest.raises(Lost, match=str(one.layer_digest)) as caught:
        await store.commit(relying)
    assert caught.value.digests == {one.digest, one.layer_digest}
    assert store.resolve(latest) is ABSENT
    with pytest.raises(Lost):
        await store.commit(Changes(NOON, required=((one.name, one.digest),)))
    await store.commit(one.changes())
    await store.commit(relying)
    with pytest.raises(Lost):
        await store.commit(replace(relying, required=(("ghcr.io/acme/elsewhere", one.digest),)))


async def test_commits_go_on_while_it_is_collected(store: Store) -> None:
    agents = [agent(number, size=[100, INLINE_LIMIT + 1][number % 2]) for number in range(40)]
    async with anyio.create_task_group() as group:
        for one in agents:
            group.start_soon(store.commit, one.changes())
            group.start_soon(store.collect)
    assert all(one.is_in(store) for one in agents)
