"""The endpoints of the distribution-spec as decisions: a whole request in, an answer out, no HTTP.

distribution-spec v1.1, "Endpoints". HEAD is decided like GET: whoever sends the answer leaves the body away.
What waits is the content's business: see `Content.run`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import quote

from lading.testing import grammar
from lading.testing.content import (
    BlobReader,
    Content,
    StoredManifest,
    check_repository,
    tag_order,
    unknown_blob,
    unknown_manifest,
    unknown_repository,
)
from lading.testing.manifests import Requirement, requirements
from lading.testing.ranges import Part, Unsatisfiable, asked_part, content_range, unsatisfied_range
from lading.testing.referrers import INDEX, referrers
from lading.testing.refusals import ErrorCode, Refusal
from lading.testing.routes import Kind, Route
from lading.testing.uploads import Upload, Uploads

_PAGE_SIZE = re.compile(r"[0-9]{1,9}")
_WRITING = frozenset({"POST", "PUT", "PATCH", "DELETE"})


@dataclass(frozen=True, slots=True)
class Call:
    """A request, read whole: its body is in `body`, or in `upload`. `headers` look up without regard to case."""

    method: str
    route: Route
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes = b""
    upload: Upload | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A response that nobody has sent yet. Whoever sends it closes a body that is a reader.

    `part` is what is sent of the body, None for all of it.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | BlobReader = b""
    part: Part | None = None


class Endpoints:
    """Answers calls from the content and the uploads that it is given; refuses to change them unless writable.

    Without `referrers` there is no such endpoint, as in older registries. `chunk_min_length` is announced to whoever
    begins an upload.
    """

    def __init__(
        self,
        content: Content,
        uploads: Uploads,
        *,
        writable: bool = True,
        referrers: bool = True,
        chunk_min_length: int | None = None,
    ) -> None:
        self._content = content
        self._uploads = uploads
        self._is_writable = writable
        self._has_referrers = referrers
        self._chunk_min_length = chunk_min_length
        self._table: dict[tuple[Kind, str], Callable[[Call], Answer]] = {
            ("ping", "GET"): self._ping,
            ("catalog", "GET"): self._list_repositories,
            ("manifest", "GET"): self._get_manifest,
            ("manifest", "PUT"): self._put_manifest,
            ("manifest", "DELETE"): self._delete_manifest,
            ("blob", "GET"): self._get_blob,
            ("blob", "DELETE"): self._delete_blob,
            ("tags", "GET"): self._list_tags,
            ("referrers", "GET"): self._list_referrers,
            ("upload", "POST"): self._begin_upload,
            ("upload", "GET"): self._get_upload,
            ("upload", "PATCH"): self._append_upload,
            ("upload", "PUT"): self._finish_upload,
            ("upload", "DELETE"): self._cancel_upload,
        }

    def upload_for(self, call: Call) -> Upload | None:
        """Return where the body of a call belongs before it can be answered; None: in the call itself.

        Raises the refusal of a call that no body could save. Waits for nothing.
        """
        self._endpoint(call)
        repository, identifier = call.route.repository, call.route.reference
        if call.route.kind == "upload" and call.method in ("PATCH", "PUT"):
            upload = self._uploads.find(repository, identifier)
            if call.method == "PUT":
                _check_digest(call.query.get("digest", ""))
            return upload
        if call.route.kind == "upload" and call.method == "POST" and _is_whole(call):
            _check_digest(call.query["digest"])
            return Upload(repository, self._content.spool())
        return None

    def answer(self, call: Call) -> Answer:
        """Decide a call; raise the refusal of it."""
        return self._endpoint(call)(call)

    def _endpoint(self, call: Call) -> Callable[[Call], Answer]:
        route = call.route
        if route.kind == "other" or (route.kind == "referrers" and not self._has_referrers):
            raise Refusal(ErrorCode.UNSUPPORTED, "no such endpoint", status=404)
        if call.method in _WRITING and not self._is_writable:
            headers = {"Allow": "GET, HEAD"}
            raise Refusal(ErrorCode.UNSUPPORTED, "this registry is read-only", headers=headers)
        if route.repository:
            check_repository(route.repository)
        endpoint = self._table.get((route.kind, "GET" if call.method == "HEAD" else call.method))
        is_misplaced = route.kind == "upload" and (call.method == "POST") != (route.reference == "")
        if endpoint is None or is_misplaced:
            raise Refusal(ErrorCode.UNSUPPORTED, f"{call.method} is not supported here")
        return endpoint

    def _ping(self, call: Call) -> Answer:
        return _json({})

    def _get_manifest(self, call: Call) -> Answer:
        reference = call.route.reference
        if ":" in reference:  # never part of a tag
            _check_digest(reference)
        manifest = self._content.manifest(call.route.repository, reference)
        headers = {"Content-Type": manifest.media_type, "Docker-Content-Digest": manifest.digest}
        return Answer(200, headers, manifest.raw)

    def _put_manifest(self, call: Call) -> Answer:
        repository, reference = call.route.repository, call.route.reference
        tag: str | None = None
        if ":" in reference:
            _check_digest_of(reference, call.body)
            digest = reference
        else:
            digest, tag = grammar.sha256(call.body), reference
        media_type = call.headers.get("Content-Type", "").partition(";")[0].strip()
        needed = requirements(call.body, media_type)
        for blob in needed.blobs:
            _check_held(blob, self._content.blob_size(repository, blob.digest))
        for child in needed.manifests:
            _check_held(child, self._manifest_size(repository, child.digest))
        self._content.put_manifest(repository, StoredManifest(digest, media_type, call.body), tag)
        created = _created(f"/v2/{repository}/manifests/{reference}", digest)
        if needed.subject is None or not self._has_referrers:
            return created
        return replace(created, headers={**created.headers, "OCI-Subject": needed.subject.digest})

    def _manifest_size(self, repository: str, digest: str) -> int | None:
        try:
            return len(self._content.manifest(repository, digest).raw)
        except Refusal:
            return None

    def _delete_manifest(self, call: Call) -> Answer:
        repository, reference = call.route.repository, call.route.reference
        try:
            if ":" in reference:
                self._content.remove_manifest(repository, _check_digest(reference))
            else:
                self._content.remove_tag(repository, reference)
        except KeyError:
            raise self._unknown(repository, unknown_manifest(repository, reference)) from None
        return Answer(202)

    def _get_blob(self, call: Call) -> Answer:
        digest = _check_digest(call.route.reference)
        blob = self._content.blob(call.route.repository, digest)
        return _with_range(call, digest, blob)

    def _delete_blob(self, call: Call) -> Answer:
        repository, digest = call.route.repository, _check_digest(call.route.reference)
        try:
            self._content.remove_blob(repository, digest)
        except KeyError:
            raise self._unknown(repository, unknown_blob(repository, digest)) from None
        return Answer(202)

    def _unknown(self, repository: str, otherwise: Refusal) -> Refusal:
        return otherwise if self._content.has_repository(repository) else unknown_repository(repository)

    def _list_repositories(self, call: Call) -> Answer:
        names, headers = _page(call, "/v2/_catalog", self._content.repositories(), lambda name: (name, name))
        return _json({"repositories": names}, headers)

    def _list_tags(self, call: Call) -> Answer:
        repository = call.route.repository
        tags, headers = _page(call, f"/v2/{repository}/tags/list", self._content.tags(repository), tag_order)
        return _json({"name": repository, "tags": tags}, headers)

    def _list_referrers(self, call: Call) -> Answer:
        subject, artifact_type = _check_digest(call.route.reference), call.query.get("artifactType")
        # Of what isn't there, too, there may be referrers: the answer is never 404.
        found = referrers(self._content.manifests(call.route.repository), subject, artifact_type)
        headers = {"Content-Type": INDEX}
        if artifact_type is not None:
            headers["OCI-Filters-Applied"] = "artifactType"
        return _json(found, headers)

    def _begin_upload(self, call: Call) -> Answer:
        repository = call.route.repository
        mount, source = call.query.get("mount"), call.query.get("from")
        if call.upload is not None:
            return self._keep_blob(repository, call.query["digest"], call.upload)
        if mount is not None:
            _check_digest(mount)
            if source is not None and self._content.mount_blob(repository, mount, check_repository(source)):
                return _blob_created(repository, mount)
        begun = _accepted(self._uploads.begin(repository, self._content.spool()))
        if self._chunk_min_length is None:
            return begun
        return replace(begun, headers={**begun.headers, "OCI-Chunk-Min-Length": str(self._chunk_min_length)})

    def _get_upload(self, call: Call) -> Answer:
        return Answer(204, self._uploads.find(call.route.repository, call.route.reference).headers())

    def _append_upload(self, call: Call) -> Answer:
        assert call.upload is not None
        return _accepted(call.upload)

    def _finish_upload(self, call: Call) -> Answer:
        assert call.upload is not None
        # Whole now, right or wrong: what doesn't match its digest can't be mended by more bytes.
        self._uploads.end(call.route.repository, call.route.reference)
        return self._keep_blob(call.route.repository, call.query["digest"], call.upload)

    def _cancel_upload(self, call: Call) -> Answer:
        repository, identifier = call.route.repository, call.route.reference
        upload = self._uploads.find(repository, identifier)
        with upload.claimed():
            self._uploads.end(repository, identifier)
            upload.spool.discard()
        return Answer(204)

    def _keep_blob(self, repository: str, digest: str, upload: Upload) -> Answer:
        spool = upload.spool
        try:
            if spool.digest(grammar.algorithm_of(digest)) != digest:
                raise _wrong_digest(digest, spool.digest("sha256"), spool.size)
            spool.keep(repository, digest)
        finally:
            spool.discard()
        return _blob_created(repository, digest)


def refuse(refusal: Refusal) -> Answer:
    """Return the answer that a refusal is."""
    return Answer(refusal.status, {"Content-Type": "application/json", **refusal.headers}, refusal.body())


def _json(document: object, headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(200, {"Content-Type": "application/json", **(headers or {})}, json.dumps(document).encode())


def _with_range(call: Call, digest: str, blob: bytes | BlobReader) -> Answer:
    size = len(blob) if isinstance(blob, bytes) else blob.size
    etag = f'"{digest}"'
    headers = {
        "Content-Type": "application/octet-stream",
        "Docker-Content-Digest": digest,
        "ETag": etag,
        "Accept-Ranges": "bytes",
    }
    try:
        # RFC 9110, section 14.2: only GET has ranges.
        part = asked_part(call.headers, size, etag) if call.method == "GET" else None
    except Unsatisfiable:
        if not isinstance(blob, bytes):
            blob.close()
        return Answer(416, {**headers, "Content-Range": unsatisfied_range(size)})
    if part is None:
        return Answer(200, headers, blob)
    return Answer(206, {**headers, "Content-Range": content_range(part, size)}, blob, part)


def _created(location: str, digest: str) -> Answer:
    return Answer(201, {"Location": location, "Docker-Content-Digest": digest})


def _blob_created(repository: str, digest: str) -> Answer:
    return _created(f"/v2/{repository}/blobs/{digest}", digest)


def _accepted(upload: Upload) -> Answer:
    return Answer(202, upload.headers())


def _is_whole(call: Call) -> bool:
    # distribution-spec v1.1, "Single POST": the body is the blob. A mount has no body.
    return "digest" in call.query and "mount" not in call.query


def _check_digest(digest: str) -> str:
    if not grammar.is_digest(digest):
        raise Refusal(ErrorCode.DIGEST_INVALID, "not a sha256 or sha512 digest", detail={"digest": digest})
    return digest


def _check_digest_of(digest: str, data: bytes) -> None:
    if not grammar.is_digest_of(_check_digest(digest), data):
        raise _wrong_digest(digest, grammar.sha256(data), len(data))


def _wrong_digest(digest: str, received: str, length: int) -> Refusal:
    detail = {"digest": digest, "received": received, "length": length}
    return Refusal(ErrorCode.DIGEST_INVALID, "provided digest did not match the content", detail=detail)


def _check_held(needed: Requirement, held_size: int | None) -> None:
    detail = {"digest": needed.digest, "size": needed.size, "held": held_size}
    if held_size is None:
        raise Refusal(ErrorCode.MANIFEST_BLOB_UNKNOWN, "the manifest refers to unknown content", detail=detail)
    if held_size != needed.size:
        raise Refusal(ErrorCode.MANIFEST_INVALID, "the manifest gives a wrong size", detail=detail)


def _page(
    call: Call, path: str, names: list[str], order: Callable[[str], tuple[str, str]]
) -> tuple[list[str], dict[str, str]]:
    """Return the page of sorted names that `n` and `last` ask for, and the Link to the next one."""
    last = call.query.get("last")
    if last is not None:  # a key, not a position: what it names may be gone
        names = [name for name in names if order(name) > order(last)]
    size = _page_size(call.query.get("n"), len(names))
    page = names[:size]
    headers = {}
    if page and len(page) < len(names):
        headers["Link"] = f'<{path}?n={size}&last={quote(page[-1], safe="")}>; rel="next"'
    return page, headers


def _page_size(text: str | None, everything: int) -> int:
    if text is None:
        return everything
    if _PAGE_SIZE.fullmatch(text) is None:
        raise Refusal(ErrorCode.UNSUPPORTED, "n is not a number", detail={"n": text}, status=400)
    return int(text)
