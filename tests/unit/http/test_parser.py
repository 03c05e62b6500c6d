"""The request parser beside llhttp (httptools): what ours takes, llhttp takes too and reads the same."""

import random

import httptools
import pytest

from proa.http._request import HttpError, Request, parse_head

SEEDS = (
    b"GET /_ping HTTP/1.1\r\nHost: docker\r\n\r\n",
    b"HEAD /v1.51/_ping HTTP/1.1\r\nHost: moby\r\nUser-Agent: Docker-Client/28.2.2 (linux)\r\n\r\n",
    b"POST /v1.51/containers/create?name=a%20b HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    b"Content-Length: 0\r\n\r\n",
    b"POST /containers/a/attach?stream=1 HTTP/1.1\r\nHost:x\r\nConnection: close\r\nX-A: \t b c \t\r\n\r\n",
    b"DELETE /images/library/busybox:latest HTTP/1.1\r\nHost: x\r\nX-Two: 1\r\nX-Two: 2\r\nEmpty:\r\n\r\n",
    b"POST /images/load HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n",
)
SPICE = (
    b"\r",
    b"\n",
    b"\r\n",
    b"\0",
    b" ",
    b"\t",
    b":",
    b"\x7f",
    b"\xff",
    b"?",
    b"/",
    b"%",
    b"HTTP/1.1",
    b"Host: y\r\n",
)


class Oracle:
    """What llhttp reads of a head."""

    def __init__(self) -> None:
        self.target = b""
        self.headers: dict[str, str] = {}
        self.complete = False

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1").rstrip(" \t")
        self.headers[key] = f"{self.headers[key]}, {text}" if key in self.headers else text

    def on_headers_complete(self) -> None:
        self.complete = True


def oracle_reads(head: bytes) -> tuple[str, bytes, dict[str, str]] | None:
    """(method, target, headers), or None where llhttp refuses."""
    oracle = Oracle()
    parser = httptools.HttpRequestParser(oracle)
    try:
        parser.feed_data(head)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError:
        if not oracle.complete:
            return None
    return parser.get_method().decode(), oracle.target, oracle.headers


def reads(request: Request) -> tuple[str, bytes, dict[str, str]]:
    target = request.path + ("?" + request.query if request.query else "")
    return request.method, target.encode(), dict(request.headers)


@pytest.mark.parametrize("head", SEEDS)
def test_good_heads(head: bytes) -> None:
    assert reads(parse_head(head)) == oracle_reads(head)


def mutate(random: random.Random, head: bytes) -> bytes:
    """Insert, delete or overwrite in up to three places, the end kept."""
    data = bytearray(head[:-4])
    for _ in range(random.randint(1, 3)):
        place = random.randrange(len(data))
        piece = random.choice((*SPICE, bytes((random.randrange(256),))))
        data[place : place + random.choice((0, 1, len(piece)))] = piece
    return bytes(data) + b"\r\n\r\n"


@pytest.mark.parametrize("seed", range(8))
def test_what_we_take_llhttp_reads_the_same(seed: int) -> None:
    chance = random.Random(seed)
    taken = 0
    for _ in range(2000):
        head = mutate(chance, chance.choice(SEEDS))
        if head.find(b"\r\n\r\n") != len(head) - 4 or head.startswith(b"\r\n"):
            continue  # the connection splits there, or skips it
        try:
            ours = reads(parse_head(head))
        except HttpError:
            continue
        if ours[1].endswith(b"?") or b"?" not in ours[1]:
            head = head.replace(b"? ", b" ", 1)
            ours = reads(parse_head(head))
        taken += 1
        assert ours == oracle_reads(head), head
    assert taken > 100
