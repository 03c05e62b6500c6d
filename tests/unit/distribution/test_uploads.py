"""Blobs on their way in: every way of the specification, and every way in which it goes wrong."""

import asyncio
import gc
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from registry_thread import RegistryThread, digest_of

from proa.distribution.uploads import to_end

DATA = bytes(range(256)) * 4096
DIGEST = digest_of(DATA)


def begin(registry: RegistryThread, repository: str = "a/b") -> str:
    answer = registry.call("POST", f"/v2/{repository}/blobs/uploads/")
    assert answer.status == 202
    assert answer.headers["range"] == "0-0"
    return answer.headers["location"]


def fetched(registry: RegistryThread, repository: str = "a/b", digest: str = DIGEST) -> bytes:
    answer = registry.call("GET", f"/v2/{repository}/blobs/{digest}")
    assert answer.status == 200
    assert answer.headers["docker-content-digest"] == digest
    return answer.body


def left_over(registry: RegistryThread) -> list[str]:
    return os.listdir(registry.root / "uploads")


def test_one_post_is_enough(registry: RegistryThread) -> None:
    answer = registry.call("POST", f"/v2/a/b/blobs/uploads/?digest={DIGEST}", DATA)
    assert (answer.status, answer.headers["location"]) == (201, f"/v2/a/b/blobs/{DIGEST}")
    assert fetched(registry) == DATA
    assert left_over(registry) == []


def test_post_then_put(registry: RegistryThread) -> None:
    assert registry.push_blob("a/b", DATA) == DIGEST
    assert fetched(registry) == DATA
    assert left_over(registry) == []


def test_chunks_in_order_and_none_other(registry: RegistryThread) -> None:
    location = begin(registry)
    first = registry.call("PATCH", location, DATA[:1000], {"Content-Range": "0-999"})
    assert (first.status, first.headers["range"]) == (202, "0-999")
    late = registry.call("PATCH", location, DATA[2000:3000], {"Content-Range": "2000-2999"})
    assert (late.status, late.code, late.headers["range"]) == (416, "RANGE_INVALID", "0-999")
    again = registry.call("PATCH", location, DATA[:1000], {"Content-Range": "0-999"})
    assert again.status == 416
    status = registry.call("GET", location)
    assert (status.status, status.headers["range"]) == (204, "0-999")
    rest = DATA[1000:]
    done = registry.call(
        "PUT", f"{location}?digest={DIGEST}", rest, {"Content-Range": f"1000-{len(DATA) - 1}"}
    )
    assert done.status == 201
    assert fetched(registry) == DATA


@pytest.mark.parametrize("value", ["x", "5-1", "0-", "bytes=0-9", "0-98"])
def test_a_range_that_is_none(registry: RegistryThread, value: str) -> None:
    answer = registry.call("PATCH", begin(registry), DATA[:100], {"Content-Range": value})
    assert answer.status == 400
    assert answer.code in ("BLOB_UPLOAD_INVALID", "SIZE_INVALID")


def test_a_stream_of_chunks_without_length(registry: RegistryThread) -> None:
    location = begin(registry)
    with registry.connect() as client:
        client.sendall(f"PATCH {location} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        for start in range(0, len(DATA), 50_000):
            part = DATA[start : start + 50_000]
            client.sendall(b"%x\r\n%b\r\n" % (len(part), part))
        client.sendall(b"0\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 202 ")
    assert registry.call("PUT", f"{location}?digest={DIGEST}").status == 201
    assert fetched(registry) == DATA


def test_another_digest_ends_the_upload(registry: RegistryThread) -> None:
    location = begin(registry)
    answer = registry.call("PUT", f"{location}?digest={digest_of(b'other')}", DATA)
    assert (answer.status, answer.code) == (400, "DIGEST_INVALID")
    assert registry.call("GET", location).code == "BLOB_UPLOAD_UNKNOWN"
    assert left_over(registry) == []


@pytest.mark.parametrize("query", ["", "?digest=", "?digest=sha256:12", "?digest=md5:" + "0" * 32])
def test_the_end_names_a_digest(registry: RegistryThread, query: str) -> None:
    answer = registry.call("PUT", begin(registry) + query, DATA)
    assert (answer.status, answer.code) == (400, "DIGEST_INVALID")


def test_sha512_is_a_name_of_the_same_blob(registry: RegistryThread) -> None:
    digest = digest_of(DATA, "sha512")
    assert registry.call("PUT", f"{begin(registry)}?digest={digest}", DATA).status == 201
    registry.push_blob("a/b", DATA)
    assert fetched(registry, digest=digest) == fetched(registry) == DATA
    assert len(os.listdir(registry.root / "content/blobs/sha256")) == 1


def test_cancel(registry: RegistryThread) -> None:
    location = begin(registry)
    registry.call("PATCH", location, DATA)
    assert registry.call("DELETE", location).status == 204
    assert registry.call("GET", location).code == "BLOB_UPLOAD_UNKNOWN"
    assert left_over(registry) == []


def test_an_upload_is_its_repository_s(registry: RegistryThread) -> None:
    location = begin(registry)
    other = location.replace("/a/b/", "/c/")
    for method in ("GET", "PATCH", "PUT", "DELETE"):
        target = other + (f"?digest={DIGEST}" if method == "PUT" else "")
        assert registry.call(method, target, b"").code == "BLOB_UPLOAD_UNKNOWN"


def test_a_client_that_breaks_off_goes_on_where_the_registry_is(registry: RegistryThread) -> None:
    location = begin(registry)
    with registry.connect() as client:
        client.sendall(
            f"PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(DATA)}\r\n\r\n".encode()
            + DATA[:300_000]
        )
    # The next request waits until the broken one has written what it got.
    registry.call("PATCH", location, b"")
    there = int(registry.call("GET", location).headers["range"].removeprefix("0-")) + 1
    assert 0 < there <= 300_000
    rest = {"Content-Range": f"{there}-{len(DATA) - 1}"}
    assert registry.call("PUT", f"{location}?digest={DIGEST}", DATA[there:], rest).status == 201
    assert fetched(registry) == DATA


def test_another_process_goes_on(tmp_path: Path) -> None:
    with RegistryThread(tmp_path) as first:
        location = begin(first)
        first.call("PATCH", location, DATA[:1234])
    with RegistryThread(tmp_path) as second:
        assert second.call("GET", location).headers["range"] == "0-1233"
        second.call("PATCH", location, DATA[1234:5000], {"Content-Range": "1234-4999"})
        assert second.call("PUT", f"{location}?digest={DIGEST}", DATA[5000:]).status == 201
        assert fetched(second) == DATA


def test_one_blob_twice_at_a_time(registry: RegistryThread) -> None:
    locations = [begin(registry, f"r{number}") for number in range(8)]

    def put(location: str) -> int:
        return registry.call("PUT", f"{location}?digest={DIGEST}", DATA).status

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(put, locations)) == {201}
    assert all(fetched(registry, f"r{number}") == DATA for number in range(8))
    assert len(os.listdir(registry.root / "content/blobs/sha256")) == 1
    assert left_over(registry) == []


def test_a_blob_that_is_too_large(tmp_path: Path) -> None:
    with RegistryThread(tmp_path, "--max-blob-size", "1000") as registry:
        location = begin(registry)
        assert registry.call("PATCH", location, b"x" * 600).status == 202
        answer = registry.call("PATCH", location, b"x" * 401)
        assert (answer.status, answer.code) == (413, "SIZE_INVALID")


def test_mount(registry: RegistryThread) -> None:
    registry.push_blob("a/b", DATA)
    target = f"/v2/c/blobs/uploads/?mount={DIGEST}"
    assert registry.call("GET", f"/v2/c/blobs/{DIGEST}").code == "BLOB_UNKNOWN"
    assert registry.call("POST", target).status == 202  # from nowhere: an upload like any other
    assert registry.call("POST", f"{target}&from=no/such").status == 202
    answer = registry.call("POST", f"{target}&from=a/b")
    assert (answer.status, answer.headers["location"]) == (201, f"/v2/c/blobs/{DIGEST}")
    registry.call("DELETE", f"/v2/a/b/blobs/{DIGEST}")
    assert fetched(registry, "c") == DATA


def test_what_nobody_goes_on_with_is_removed(tmp_path: Path) -> None:
    with RegistryThread(tmp_path) as registry:
        stale, fresh = begin(registry), begin(registry)
        os.utime(tmp_path / "uploads" / stale.rpartition("/")[2], (0, 0))
    with RegistryThread(tmp_path) as registry:
        assert registry.call("GET", stale).status == 404
        assert registry.call("GET", fresh).status == 204


async def test_what_a_thread_failed_with_after_its_caller_went_is_not_reported() -> None:
    """As of a blob whose client is gone: the write fails, and the request is cancelled already."""
    loop = asyncio.get_running_loop()
    told: list[dict[str, object]] = []
    loop.set_exception_handler(lambda _, context: told.append(context))
    future = loop.create_future()
    caller = asyncio.ensure_future(to_end(future))
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.sleep(0)
    assert not caller.done()
    future.set_exception(ConnectionResetError("the client is gone"))
    await asyncio.wait({caller})
    assert caller.cancelled()
    del future, caller
    gc.collect()
    assert told == []
