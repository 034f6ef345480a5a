"""Killed at any moment: nothing that was committed is lost, and nothing corrupt is served."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from ordeal import Ordeal
from store.process import run

# Forked from one parent that has imported everything and opened nothing: imports take longer than what is tested.
SCRIPT = """
    import asyncio, os, random, signal, sys, time
    import anyio.to_thread, anyio._backends._asyncio
    from store.cargo import agent, blob, described, take
    from lading.store.local import LocalStore
    from lading.store.store import INLINE_LIMIT, Corrupt, Intact

    path, rounds = sys.argv[1], int(sys.argv[2])
    SIZES = [200, 5_000, INLINE_LIMIT + 1]

    def one(number):
        return agent(number, size=SIZES[number % 3])

    async def write(first, report):
        store = LocalStore(path)
        async def commit(number):
            await store.commit(one(number).changes())
            os.write(report, number.to_bytes(4, "big"))
        for start in range(first, first + 1000, 4):
            async with anyio.create_task_group() as group:
                for number in range(start, start + 4):
                    group.start_soon(commit, number)
            content = blob(300_000, start)
            await take(store, content, "ghcr.io/acme/image")
            os.write(report, (start | 1 << 31).to_bytes(4, "big"))

    def check(committed, blobs):
        store = LocalStore(path)
        for number in committed:
            assert one(number).is_in(store), number
        for seed in blobs:
            content = blob(300_000, seed)
            assert store.read("ghcr.io/acme/image", described(content).digest) == Intact(content), seed
        store.close()

    chance = random.Random(int(sys.argv[3]))
    total = 0
    for round in range(rounds):
        receive, report = os.pipe()
        child = os.fork()
        if not child:
            os.close(receive)
            asyncio.run(write(round * 10_000, report))
            os._exit(1)
        os.close(report)
        os.set_blocking(receive, True)
        reports = []
        wanted = chance.randrange(12)    # how much it may report before it is killed, and a moment more
        while len(reports) < wanted and (piece := os.read(receive, 4)):
            reports.append(int.from_bytes(piece, "big"))
        for _ in range(chance.randrange(20_000)):
            pass
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        while piece := os.read(receive, 4):
            reports.append(int.from_bytes(piece, "big"))
        os.close(receive)
        check([n for n in reports if n < 1 << 31], [n & ~(1 << 31) for n in reports if n >= 1 << 31])
        total += len(reports)
    assert not [name for name in os.listdir(path) if name.startswith("index-2")]
    print(total)
"""


@pytest.mark.torture
def test_a_process_that_is_killed_loses_nothing_that_it_committed(
    home: Path, ordeal: Ordeal, measured: Callable[[str, str], None]
) -> None:
    home.parent.mkdir()
    rounds = ordeal.rounds(short=15, long=2_000)
    commits = int(run(SCRIPT, home, str(rounds), str(ordeal.seed)))
    assert commits > rounds
    if ordeal.is_long:
        measured(f"{rounds} writers killed", f"{commits} commits reported before, none lost")
