"""What the tests put into stores: small agents by number, and blobs by size."""

from __future__ import annotations

import random
from dataclasses import dataclass

from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest
from lading.oci.media_types import OCI_MANIFEST
from lading.oci.reference import Reference
from lading.store.store import Changes, Intact, Record, Seen, Store

LAYER = "application/yaml"
NOON = 1_700_000_000.0


@dataclass(frozen=True)
class Agent:
    """A reference, its manifest and its layer, as a pull would commit them."""

    reference: Reference
    manifest: bytes
    layer: bytes
    validated: float = NOON

    @property
    def name(self) -> str:
        return self.reference.name

    @property
    def digest(self) -> Digest:
        return Digest.of(self.manifest)

    @property
    def layer_digest(self) -> Digest:
        return Digest.of(self.layer)

    @property
    def record(self) -> Record:
        return Record(self.digest, OCI_MANIFEST, self.validated)

    def changes(self, *, durable: bool = True) -> Changes:
        return Changes(
            validated=self.validated,
            content=((self.digest, self.manifest), (self.layer_digest, self.layer)),
            seen=(Seen(self.name, self.digest, OCI_MANIFEST), Seen(self.name, self.layer_digest, LAYER)),
            references=((self.reference, self.digest, OCI_MANIFEST),),
            links=((self.digest, self.layer_digest),),
            durable=durable,
        )

    def is_in(self, store: Store) -> bool:
        """Whether ``store`` gives all of it back."""
        return (
            store.resolve(self.reference) == self.record
            and store.read(self.name, self.digest) == Intact(self.manifest)
            and store.read(self.name, self.layer_digest) == Intact(self.layer)
        )


def agent(number: int = 0, *, registry: str = "ghcr.io", size: int = 500) -> Agent:
    """Agent ``number``, whose layer has ``size`` bytes."""
    return Agent(
        Reference.parse(f"{registry}/acme/agent{number}:v1"),
        f'{{"manifest": {number}}}'.encode() * 10,
        blob(size, number),
    )


def blob(size: int, seed: int = 0) -> bytes:
    """Bytes that don't repeat."""
    return random.Random(f"{seed}/{size}").randbytes(size)


def described(content: bytes, algorithm: str = "sha256") -> Descriptor:
    return Descriptor(LAYER, Digest.of(content, algorithm), len(content))


def shown(descriptor: Descriptor, name: str = "ghcr.io/acme/image") -> Changes:
    """The commit that makes an ingested blob visible in a repository."""
    seen = Seen(name, descriptor.digest, descriptor.media_type)
    return Changes(validated=NOON, blobs=(descriptor,), seen=(seen,))


async def take(store: Store, content: bytes, name: str = "ghcr.io/acme/image") -> Descriptor:
    """Ingest ``content`` and commit it."""
    descriptor = described(content)
    async with store.ingest(descriptor) as ingest:
        await ingest.write(content[ingest.received :])
        await ingest.finish()
    await store.commit(shown(descriptor, name))
    return descriptor
