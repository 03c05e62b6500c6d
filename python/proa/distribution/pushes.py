"""Requests that write: uploads, manifests, deletions."""

import re
from collections.abc import Mapping
from typing import Final

from proa.distribution import names, replies
from proa.distribution.failures import Code, Refusal
from proa.distribution.manifests import SIZE_MAX, parse
from proa.distribution.paths import Call, Query
from proa.distribution.replies import Reply, Response
from proa.distribution.repositories import Stored
from proa.distribution.store import Store
from proa.distribution.uploads import Upload
from proa.http._request import Request

TAGS_MAX: Final = 64
"""Tags that come with one manifest."""

_CONTENT_RANGE = re.compile(r"(?:bytes )?(\d{1,18})-(\d{1,18})(?:/(?:\d{1,18}|\*))?")


class Pushes:
    """The handlers, by what is asked for and the method."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._uploads = store.uploads

    # ---- blobs -----------------------------------------------------------------------------------

    async def begin(self, call: Call, request: Request) -> Response:
        """POST: begin an upload, or the whole of it in one request, or share another repository's blob."""
        query = Query(request.query)
        if "mount" in query:
            digest = names.check_digest(query.get("mount"))
            source = query.get("from")
            if source and self._store.mount(call.repository, digest, names.check_name(source)):
                return created(call.repository, digest)
        digest = names.check_digest(query.get("digest")) if "digest" in query else ""
        upload = self._uploads.begin(call.repository)
        if not digest:
            return progress(202, upload)
        try:
            async with upload.lock:
                await self._uploads.receive(upload, request.body)
                await self._store.commit(upload, digest)
        except BaseException:
            # Nobody knows its id: nobody could go on with it.
            self._uploads.end(upload)
            await self._uploads.run(self._uploads.remove, upload)
            raise
        return created(call.repository, digest)

    async def append(self, call: Call, request: Request) -> Response:
        """PATCH: the next chunk, or all of it as a stream."""
        upload = self._uploads.find(call.repository, call.reference)
        async with upload.lock:
            self._check_still_there(upload)
            check_start(upload, request)
            await self._uploads.receive(upload, request.body)
            return progress(202, upload)

    async def finish(self, call: Call, request: Request) -> Response:
        """PUT: the last chunk, if any, and the digest of the whole."""
        query = Query(request.query)
        digest = names.check_digest(query.get("digest"))
        upload = self._uploads.find(call.repository, call.reference)
        async with upload.lock:
            self._check_still_there(upload)
            check_start(upload, request)
            await self._uploads.receive(upload, request.body)
            await self._store.commit(upload, digest)
        return created(call.repository, digest)

    async def status(self, call: Call, request: Request) -> Response:
        """GET: how far an upload has come."""
        return progress(204, self._uploads.find(call.repository, call.reference))

    async def cancel(self, call: Call, request: Request) -> Response:
        """DELETE: give an upload up."""
        await self._uploads.cancel(self._uploads.find(call.repository, call.reference))
        return replies.empty(204, {})

    async def delete_blob(self, call: Call, request: Request) -> Response:
        """The repository has it no more; others may."""
        self._store.repositories.unlink(call.repository, call.reference)
        return replies.empty(202, {})

    def _check_still_there(self, upload: Upload) -> None:
        """Another request may have ended it while this one waited for the lock."""
        self._uploads.find(upload.repository, upload.id)

    # ---- manifests -------------------------------------------------------------------------------

    async def put_manifest(self, call: Call, request: Request) -> Response:
        """Store a manifest under a tag, or under its digest with the tags of the query."""
        data: bytes = request.body
        if len(data) > SIZE_MAX:
            raise Refusal(Code.MANIFEST_INVALID, f"a manifest may have at most {SIZE_MAX} bytes", status=413)
        parsed = parse(data, request.headers.get("content-type", ""))
        digest = names.digest_of(data)
        tags = [call.reference]
        if names.is_digest(call.reference):
            digest = names.digest_of(data, call.reference)
            tags = [names.check_tag(tag) for tag in Query(request.query).lists.get("tag", ())][:TAGS_MAX]
            if digest != call.reference:
                raise Refusal(Code.DIGEST_INVALID, "provided digest did not match uploaded content")
        stored = Stored(digest, parsed.media_type, data)
        self._store.repositories.put(call.repository, stored, parsed, tags)
        headers = {
            "Location": f"/v2/{call.repository}/manifests/{digest}",
            "Docker-Content-Digest": digest,
        }
        if parsed.subject:
            headers["OCI-Subject"] = parsed.subject
        if tags and names.is_digest(call.reference):
            headers["OCI-Tag"] = ", ".join(tags)
        return replies.empty(201, headers)

    async def delete_manifest(self, call: Call, request: Request) -> Response:
        """A tag, or a manifest with every tag on it."""
        self._store.repositories.delete(call.repository, call.reference)
        return replies.empty(202, {})


def check_start(upload: Upload, request: Request) -> None:
    """A chunk says where it begins: only the end of what is there will do. Raises Refusal."""
    header = request.headers.get("content-range")
    if header is None:
        return
    match = _CONTENT_RANGE.fullmatch(header)
    if match is None:
        raise Refusal(Code.BLOB_UPLOAD_INVALID, f"invalid Content-Range: {header[:80]!r}")
    first, last = int(match[1]), int(match[2])
    if not request.chunked and last - first + 1 != request.length:
        raise Refusal(Code.SIZE_INVALID, "Content-Range and Content-Length disagree", status=400)
    if first != upload.offset:
        raise Refusal(
            Code.RANGE_INVALID, f"the upload goes on at byte {upload.offset}", upload_headers(upload)
        )


def upload_headers(upload: Upload) -> Mapping[str, str]:
    """Where an upload is and how far it has come, its last byte included."""
    return {
        "Location": f"/v2/{upload.repository}/blobs/uploads/{upload.id}",
        "Range": f"0-{max(0, upload.offset - 1)}",
        "Docker-Upload-UUID": upload.id,
    }


def progress(status: int, upload: Upload) -> Reply:
    """An upload's state."""
    return replies.empty(status, upload_headers(upload))


def created(repository: str, digest: str) -> Reply:
    """The blob is there."""
    location = {"Location": f"/v2/{repository}/blobs/{digest}", "Docker-Content-Digest": digest}
    return replies.empty(201, location)
