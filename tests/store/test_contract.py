"""What every store does: the same suite for the one in memory and the one on disk."""

from __future__ import annotations

import threading

import anyio
import anyio.to_thread
import pytest
from store.cargo import LAYER, NOON, Agent, agent, blob, described, shown, take

from lading.errors import DigestMismatch, SizeMismatch, StoreError
from lading.oci.digest import Digest
from lading.oci.media_types import OCI_INDEX, OCI_MANIFEST
from lading.oci.reference import Reference
from lading.store.store import ABSENT, INLINE_LIMIT, Changes, Intact, Record, Seen, Store

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
