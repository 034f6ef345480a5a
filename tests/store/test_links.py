"""A link in the place of any file of a store: what it leads to is not read as content, not written, and not made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from store.cargo import agent, blob, described, take

from lading.errors import StoreError
from lading.store.local import LocalStore
from lading.store.values import INLINE_LIMIT, Intact

Open = Callable[[], LocalStore]

ONE, LARGE = agent(), agent(1, size=INLINE_LIMIT + 1)
CONTENT = blob(300_000)
DIGEST = described(CONTENT).digest

FILES = [
    "index-1.db",
    "index-1.db-wal",
    "index-1.db-shm",
    "index-1.db-journal",
    "index-2.db",
    "lock",
    "lock-alone",
    f"blobs/sha256/{LARGE.layer_digest.encoded}",
    f"blobs/sha256/{DIGEST.encoded}",
    f"ingest/sha256-{DIGEST.encoded}.lock",
    f"ingest/sha256-{DIGEST.encoded}.left-0123456789abcdef.part",
    "ingest/collected.0123456789abcdef",
    "lease-01234567-1-1-0123456789abcdef",
]


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("leads_to", ["a file", "nothing"])
@pytest.mark.parametrize("name", FILES)
async def test_a_link_anywhere_is_not_followed(
    open_store: Open, home: Path, tmp_path: Path, name: str, leads_to: str
) -> None:
    victim, before = tmp_path / "victim", CONTENT + b"precious"
    if leads_to == "a file":
        victim.write_bytes(before)
    store = open_store()
    for each in (ONE, LARGE):
        await store.commit(each.changes())
    await store.aclose()
    place = home / name
    place.unlink(missing_ok=True)
    place.symlink_to(victim)

    store = open_store()
    for attempt in (
        lambda: store.commit(agent(2).changes()),
        lambda: take(store, CONTENT),
        lambda: store.commit(LARGE.changes()),
        store.collect,
        lambda: store.commit(agent(3).changes()),
    ):
        try:
            store.resolve(ONE.reference)
            found = store.read(LARGE.name, LARGE.layer_digest)
            assert not isinstance(found, Intact) or found.content == LARGE.layer
            await attempt()
        except StoreError as error:
            assert str(home) in str(error)  # noqa: PT017
    await store.aclose()
    assert victim.read_bytes() == before if leads_to == "a file" else not victim.exists()
    if place.is_symlink():
        place.unlink()
    # Without the link all goes on.
    store = open_store()
    await take(store, CONTENT)
    await store.commit(agent(4).changes())
    assert agent(4).is_in(store)
