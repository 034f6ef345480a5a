"""The embedded registry in a process of its own: ``python -m benchmarks.embedded DIRECTORY open|private``.

It serves the static registry in ``DIRECTORY``, prints where, and obeys a line of JSON at a time on standard input.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from aiohttp import web

from benchmarks.shelf import OCI_MANIFEST, TAG
from lading.testing import PROFILES, EmbeddedRegistry, RecordedRequest

USER, PASSWORD = "ada", "lovelace"


def fill(registry: EmbeddedRegistry, root: Path) -> list[str]:
    """Give ``registry`` what is in a static registry, and the names of its repositories."""
    names = []
    for manifests in sorted((root / "v2").glob("**/manifests")):
        name = str(manifests.parent.relative_to(root / "v2"))
        names.append(name)
        for blob in (manifests.parent / "blobs").iterdir():
            registry.add_blob(name, blob.read_bytes())
        registry.add_manifest(name, (manifests / TAG).read_bytes(), OCI_MANIFEST, TAG)
    return names


class _Control:
    def __init__(self, registry: EmbeddedRegistry) -> None:
        self._registry = registry
        self._seconds = 0.0

    async def obey(self, command: dict[str, Any]) -> dict[str, Any]:
        registry = self._registry
        match command["do"]:
            case "counts":
                log = registry.log()
                total = sum(request.bytes_sent for request in log.requests)
                return {"requests": len(log.requests), "bytes": total, "connections": log.connections}
            case "stop":
                await registry.stop()
            case "start":
                await registry.start()
            case "late":
                self._seconds = float(command["seconds"])
                registry.intercept = self._late if self._seconds else None
        return {}

    async def _late(self, request: web.Request, record: RecordedRequest) -> None:
        await asyncio.sleep(self._seconds)


async def _main(root: Path, is_private: bool) -> None:
    if is_private:
        names = [str(path.parent.relative_to(root / "v2")) for path in (root / "v2").glob("**/manifests")]
        registry = EmbeddedRegistry(profile=PROFILES["ghcr"], users={USER: PASSWORD}, private=names)
    else:
        registry = EmbeddedRegistry()
    fill(registry, root)
    control = _Control(registry)
    async with registry:
        print(json.dumps({"host": registry.host}), flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            print(json.dumps(await control.obey(json.loads(line))), flush=True)


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1]), sys.argv[2] == "private"))
