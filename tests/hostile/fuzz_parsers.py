"""Coverage-guided inputs for every reader of foreign bytes: what isn't documented is a crash. Needs atheris.

``nox -s fuzz`` runs it on all of them; ``python tests/hostile/fuzz_parsers.py --runs 1000000 manifest token`` on some.
What crashed is kept in ``--crashes``, and read again by ``--again FILE NAME``.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if TYPE_CHECKING:
    from hostile.parsers import Parser

LENGTH = 4096
"""Bytes of an input at most: long enough for what is wrong in the usual way, short enough for many."""

SECONDS = 20
"""What one input may take."""

SHARED = {
    "reference": ("references.json",),
    "digest": ("digests.json",),
    "challenges": ("challenges.json",),
    "Link": ("link_headers.json",),
    "Content-Range": ("ranges.json",),
    "manifest": ("manifests.json",),
    "config.json": ("docker_config.json",),
}
"""The test vectors, where they are, are seeds: each text in them."""

_DONE = re.compile(r"Done (\d+) (?:runs )?in")
_COVERED = re.compile(r"cov: (\d+)")


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("names", nargs="*", help="readers; by default all")
    arguments.add_argument("--runs", type=int, default=100_000)
    arguments.add_argument("--crashes", type=Path, default=Path(tempfile.gettempdir()) / "lading-crashes")
    arguments.add_argument("--again", type=Path, help="read one input that crashed")
    arguments.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given, options = arguments.parse_known_args()
    if given.one:
        return fuzz(given.names[0], options)
    from hostile.parsers import PARSERS

    if given.again is not None:
        print(PARSERS[given.names[0]].outcome(given.again.read_bytes()))
        return 0
    given.crashes.mkdir(parents=True, exist_ok=True)
    return max([run(name, PARSERS[name], given.runs, given.crashes) for name in given.names or PARSERS])


def run(name: str, parser: Parser, runs: int, crashes: Path) -> int:
    """Fuzz one reader in a process of its own; tells whether it crashed."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        corpus, words = Path(directory, "corpus"), Path(directory, "words")
        corpus.mkdir()
        for number, seed in enumerate(seeds(name, parser)):
            (corpus / f"{number:04}").write_bytes(seed)
        words.write_text("".join(f'"{_escaped(word)}"\n' for word in parser.words if 0 < len(word) <= 128))
        prefix = crashes / f"{re.sub('[^A-Za-z0-9]', '-', name)}-"
        command = [sys.executable, __file__, "--one", name, str(corpus), f"-runs={runs}", f"-dict={words}"]
        command += [
            f"-max_len={LENGTH}",
            f"-timeout={SECONDS}",
            "-len_control=0",
            "-rss_limit_mb=4096",
            f"-artifact_prefix={prefix}",
        ]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    seconds = time.monotonic() - began
    ran, covered = _DONE.findall(done.stderr), _COVERED.findall(done.stderr)
    figures = f"{ran[-1] if ran else '?'} inputs, {covered[-1] if covered else '?'} places, {seconds:.0f} s"
    print(f"{name}: {figures}{'' if done.returncode == 0 else ', CRASHED'}", flush=True)
    if done.returncode:
        print(done.stdout[-2000:], done.stderr[-4000:], flush=True)
    return int(done.returncode != 0)


def seeds(name: str, parser: Parser) -> Iterator[bytes]:
    yield from parser.samples
    from vectors import DATA

    for file in SHARED.get(name, ()):
        path = DATA / "vectors" / file
        if path.is_file():
            yield from (text.encode("utf-8", "surrogatepass") for text in _texts(json.loads(path.read_text("utf-8"))))
    if name in ("agent", "two agents") and (DATA / "data" / "agents").is_dir():
        for path in sorted((DATA / "data" / "agents").glob("*.yaml")):
            if len(content := path.read_bytes()) < LENGTH:
                yield content


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        if 0 < len(value) <= LENGTH:
            yield value
    elif isinstance(value, list | dict):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)


def _escaped(word: bytes) -> str:
    return "".join(chr(byte) if 0x20 <= byte < 0x7F and byte not in b'"\\' else f"\\x{byte:02x}" for byte in word)


def fuzz(name: str, options: list[str]) -> int:
    import atheris

    logging.disable(logging.CRITICAL)
    with atheris.instrument_imports(include=["lading", "tomllib"]):
        from hostile.parsers import PARSERS
    from hostile.mutations import changed

    parser = PARSERS[name]
    words = parser.words

    def mutated(data: bytes, size: int, seed: int) -> bytes:
        """Half of the changes are libFuzzer's; the others know what a document is."""
        if seed % 2:
            return bytes(atheris.Mutate(data, size))
        return changed(random.Random(seed), data, parser.samples, words)[:size]

    atheris.Setup([sys.argv[0], *options], parser.outcome, custom_mutator=mutated)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
