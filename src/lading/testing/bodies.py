"""Bodies on the wire: manifests read whole and bounded, blobs received and sent in pieces.

However large a blob is, no more than a piece of it is in memory here, and the event loop gets its turn in between.
"""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from functools import partial

from aiohttp import web

from lading.testing.content import BlobReader, Content, DamagedBlob
from lading.testing.endpoints import Answer
from lading.testing.ranges import Part
from lading.testing.refusals import ErrorCode, Refusal
from lading.testing.uploads import Upload

# distribution-spec v1.1, "Pushing Manifests": registries should accept 4 MiB, and may refuse more.
_MANIFEST_MAX_BYTES = 4 * 1024 * 1024

# From a file, and into one: smaller pieces spend more on changing threads, larger ones aren't faster.
_FILE_PIECE_BYTES = 1024 * 1024

# From memory: small answers leave in one packet with their head, large ones in pieces.
_PIECE_BYTES = 256 * 1024


async def read_body(request: web.Request) -> bytes:
    """Read the body of a request that is no blob; raise SIZE_INVALID."""
    pieces, size = [], 0
    async for piece in _pieces(request):
        pieces.append(piece)
        size += len(piece)
        if size > _MANIFEST_MAX_BYTES:
            raise _too_large(_MANIFEST_MAX_BYTES)
    return b"".join(pieces)


async def receive(request: web.Request, upload: Upload, content: Content) -> None:
    """Add the body of a request to an upload, all of it or, when it raises, nothing.

    Raises:
        Refusal: the body is not the next one, is too large, or ended early.
        OSError: the content couldn't take it.
    """
    content_range = request.headers.get("Content-Range")
    upload.check_range(content_range, request.content_length)
    before, waiting, pending = upload.spool.size, list[bytes](), 0
    try:
        async for piece in _pieces(request):
            waiting.append(piece)
            pending += len(piece)
            if upload.spool.size + pending > content.max_blob_bytes:
                raise _too_large(content.max_blob_bytes)
            if pending >= _FILE_PIECE_BYTES:
                await content.run(partial(upload.spool.append, b"".join(waiting)))
                waiting, pending = [], 0
        if waiting:
            await content.run(partial(upload.spool.append, b"".join(waiting)))
        upload.check_range(content_range, upload.spool.size - before)
    except BaseException:
        upload.reject()
        raise
    upload.accept()


async def send(request: web.Request, answer: Answer, content: Content) -> web.StreamResponse:
    """Send an answer; cut the connection where a blob turns out to be damaged."""
    headers = {"Docker-Distribution-API-Version": "registry/2.0", **answer.headers}
    body = answer.body
    if answer.part is not None:
        body = narrowed(body, answer.part)
    if isinstance(body, bytes):
        if request.method == "HEAD" or len(body) <= _PIECE_BYTES:
            return web.Response(status=answer.status, headers=headers, body=body)
        reader: BlobReader | io.BytesIO = io.BytesIO(body)
        size, limit = len(body), _PIECE_BYTES
    else:
        reader, limit = body, _FILE_PIECE_BYTES
        size = body.size if answer.part is None else answer.part[1] - answer.part[0]
    response = web.StreamResponse(status=answer.status, headers=headers)
    response.content_length = size
    try:
        await response.prepare(request)
        if request.method != "HEAD":
            while piece := await content.run(partial(reader.read, limit)):
                await response.write(piece)
    except ConnectionError:
        pass  # the client is gone; aiohttp finds out likewise when it ends the response, and closes quietly
    except (DamagedBlob, OSError):
        # The head is out and promises more: only a connection that ends early says that something is wrong.
        if request.transport is not None:
            request.transport.close()
    finally:
        reader.close()
    return response


def narrowed(body: bytes | BlobReader, part: Part) -> bytes | BlobReader:
    """Return a part of a body; of a reader no byte before the part is read."""
    if isinstance(body, bytes):
        return body[slice(*part)]
    body.narrow(*part)
    return body


async def _pieces(request: web.Request) -> AsyncIterator[bytes]:
    try:
        request.clone()
    except RuntimeError:  # an interceptor has read the body, and aiohttp keeps it
        yield await request.read()
        return
    try:
        while piece := await request.content.readany():
            yield piece
    except ConnectionError as error:
        # Nobody is left to hear it, but raised further aiohttp would log it as an error of the registry.
        raise Refusal(ErrorCode.SIZE_INVALID, "the body ended early") from error


def _too_large(limit: int) -> Refusal:
    return Refusal(ErrorCode.SIZE_INVALID, f"more than {limit} bytes", status=413)
