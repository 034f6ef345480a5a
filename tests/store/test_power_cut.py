"""The power goes: what was committed is on the disk, and no row stands for a blob that is missing or wrong.

A file system in a file, and a process that works on it and is stopped at any moment. What of the file system is in the
file then, and not in the memory of the system, is what a power cut leaves: a copy is mounted, and read.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ordeal import Ordeal
from store.cargo import NOON, Agent, agent, blob, described, take
from store.process import run

from lading.oci.digest import Digest
from lading.store.local import LocalStore
from lading.store.store import INLINE_LIMIT, Changes, Intact

SIZES = (300, 20_000, INLINE_LIMIT + 1)
IMAGE = "ghcr.io/acme/image"
DISK = 24 * 1024 * 1024
"""Bytes of the file system."""

_BLOB, _AGENT = b"b", b"a"


def one(number: int) -> Agent:
    return agent(number, size=SIZES[number % 3])


def one_blob(number: int) -> bytes:
    return blob(300_000, number)


async def write(path: str, report: int, seed: int) -> None:
    """Commit agents and blobs, four at a time, and collect now and then; report what is committed, until the end."""
    chance, store, number = random.Random(seed), LocalStore(path), 0

    async def commit(number: int) -> None:
        await store.commit(one(number).changes())
        os.write(report, _AGENT + number.to_bytes(4, "big"))

    while True:
        number += 4
        async with asyncio.TaskGroup() as group:
            for each in range(number, number + 4):
                group.create_task(commit(each))
        # A collection takes what no reference reaches: this blob is reached by an agent.
        content = one_blob(number)
        await take(store, content)
        await store.commit(Changes(NOON, links=((one(number).digest, Digest.of(content)),)))
        os.write(report, _BLOB + number.to_bytes(4, "big"))
        if chance.random() < 0.3:
            await store.commit(Changes(NOON, forgotten=(one(number + 1).reference,)))
            await store.collect()
            os.write(report, b"-" + (number + 1).to_bytes(4, "big"))
        if chance.random() < 0.2:
            await store.aclose()
            store = LocalStore(path)
        if chance.random() < 0.2:
            async with store.ingest(described(blob(1_500_000, number))) as ingest:
                await ingest.write(blob(1_500_000, number)[:1_400_000])


def cut(home: Path, rounds: int, seed: int, *, is_synced: bool) -> tuple[int, int]:
    """Cut the power so often; gives how often something was lost or wrong, and how much was committed in all."""
    chance, wrong, committed = random.Random(seed), 0, 0
    blank, image, left = home / "blank", home / "image", home / "left"
    with open(blank, "wb") as file:
        file.truncate(DISK)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0", str(blank)], check=True)
    for _ in range(rounds):
        shutil.copyfile(blank, image)
        with Mounted(image, home / "disk") as disk:
            reports = interrupted(disk / "store", image, left, chance, is_synced=is_synced)
        committed += len(reports)
        with Mounted(left, home / "disk") as disk:
            problems = judge(disk / "store", reports)
        wrong += bool(problems)
        if problems and is_synced:
            print(problems, flush=True)
    return wrong, committed


class Mounted:
    """The file system in a file, at a place."""

    def __init__(self, image: Path, place: Path) -> None:
        self._image = image
        self._place = place

    def __enter__(self) -> Path:
        self._place.mkdir(exist_ok=True)
        subprocess.run(["mount", "-o", "loop", str(self._image), str(self._place)], check=True)
        return self._place

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", str(self._place)], check=True)


def interrupted(store: Path, image: Path, left: Path, chance: random.Random, *, is_synced: bool) -> list[bytes]:
    """Let a process work in ``store``; ``left`` is what a power cut leaves of ``image``. Gives what it reported."""
    receive, report = os.pipe()
    child = os.fork()
    if not child:
        if not is_synced:
            os.fsync = lambda fd: None
        asyncio.run(write(str(store), report, chance.randrange(1 << 30)), debug=False)
        os._exit(1)
    os.close(report)
    reports = [os.read(receive, 5) for _ in range(chance.randrange(1, 20))]
    time.sleep(chance.random() * 0.02)
    os.kill(child, signal.SIGSTOP)
    assert os.WIFSTOPPED(os.waitpid(child, os.WUNTRACED)[1])
    os.set_blocking(receive, False)
    while True:
        try:
            reports.append(os.read(receive, 5))
        except BlockingIOError:
            break
    content = b""
    while (again := image.read_bytes()) != content:  # what was on its way to the disk has arrived
        content = again
    left.write_bytes(content)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(receive)
    return reports


def judge(path: Path, reports: list[bytes]) -> list[str]:
    """Say what was lost, or is wrong."""
    if not path.exists():
        return ["nothing is there"] if reports else []
    problems = []
    store = LocalStore(path)
    try:
        numbers = [(report[:1], int.from_bytes(report[1:], "big")) for report in reports]
        forgotten = {number for kind, number in numbers if kind == b"-"}
        for kind, number in numbers:
            if kind == _AGENT and number not in forgotten and not one(number).is_in(store):
                # It may be forgotten already, and not reported so yet.
                if number % 4 != 1 or number < max(number for _, number in numbers) - 4:
                    problems.append(f"agent {number} is lost")
            elif kind == _BLOB:
                content = one_blob(number)
                if store.read(IMAGE, Digest.of(content)) != Intact(content):
                    problems.append(f"blob {number} is lost")
        inventory = store.inventory()
        problems += inventory.damage
        for digest, size in inventory.contents:
            if (found := store.check(digest, lambda _: None)) != size:
                problems.append(f"{digest}: {found}")
        store.close()
        problems += asyncio.run(_next(path), debug=False)
    finally:
        store.close()
    return problems


async def _next(path: Path) -> list[str]:
    """See that whoever comes next can work, and that a collection leaves nothing of what was interrupted."""
    store = LocalStore(path)
    await store.commit(one(100_000).changes())
    assert one(100_000).is_in(store)
    await store.collect()
    left = [*os.listdir(path / "ingest"), *store.inventory().strays]
    await store.aclose()
    return [f"{left} outlived a collection"] if left else []


SCRIPT = """
    import asyncio, sys
    from pathlib import Path
    import anyio.to_thread, anyio._backends._asyncio
    import lading.store.collect, lading.store.index_salvage
    from store.test_power_cut import cut
    print(*cut(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), is_synced=sys.argv[4] == "synced"))
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "disks"
    home.mkdir()
    (home / "disk").mkdir()
    image = home / "trial"
    with open(image, "wb") as file:
        file.truncate(DISK)
    try:
        subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True, capture_output=True)
        mount = ["mount", "-o", "loop", str(image), str(home / "disk")]
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        pytest.skip(f"mounting isn't possible here: {error}")
    if done.returncode:
        pytest.skip(f"mounting isn't allowed here: {done.stderr.strip()}")
    subprocess.run(["umount", str(home / "disk")], check=True)
    return home


@pytest.mark.torture
def test_a_power_cut_loses_nothing_that_was_committed(
    home: Path, ordeal: Ordeal, measured: Callable[[str, str], None]
) -> None:
    began = time.monotonic()
    rounds = ordeal.rounds(short=3, long=100)
    *problems, figures = run(SCRIPT, home, str(rounds), str(ordeal.seed), "synced").splitlines()
    assert problems == []
    wrong, committed = map(int, figures.split())
    assert wrong == 0
    assert committed >= rounds
    if ordeal.is_long:
        took = f"{time.monotonic() - began:.0f} s"
        measured(f"{rounds} power cuts", f"{committed} commits reported before them, none lost, nothing wrong, {took}")


def test_without_syncing_a_power_cut_is_noticed(home: Path) -> None:
    """What the test above would see, if files got their names before they are on the disk."""
    wrong, _ = map(int, run(SCRIPT, home, "3", "7", "not synced").splitlines()[-1].split())
    assert wrong > 0
