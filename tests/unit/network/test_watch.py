"""News of nftables: what of it makes the firewall be written again, and the way through another's."""

import asyncio
import struct

import pytest

from proa.network import nftables as nft
from proa.network.netlink import attribute, string
from proa.network.watch import Again, Watch

OURS, OTHERS = 7, 8
TABLE, CHAIN, RULE = (0, 2), (3, 5), (6, 8)
"""(new, deleted) of each."""


async def nothing() -> None:
    raise AssertionError


def news(kind: int, body: bytes, sender: int = OTHERS) -> bytes:
    body = struct.pack(">BBH", nft.IPV4, 0, 0) + body
    length = 16 + len(body)
    return struct.pack("=IHHII", length, 10 << 8 | kind, 0, 0, sender) + body + bytes(-length % 4)


def chain(table: str, name: str) -> bytes:
    return string(1, table) + attribute(2, bytes(8)) + string(3, name)


def rule(table: str, name: str) -> bytes:
    return string(1, table) + string(2, name) + attribute(3, bytes(8))


@pytest.mark.parametrize(
    ("told", "flushed", "way_closed"),
    [
        (news(TABLE[1], string(1, "proa")), True, False),
        (news(RULE[1], rule("proa", "forward")), True, False),
        (news(RULE[0], rule("proa", "forward")), False, False),
        (news(TABLE[1], string(1, "proa"), OURS), False, False),
        (news(TABLE[1], string(1, "other")), False, False),
        (news(CHAIN[0], chain("filter", "DOCKER-USER")), False, True),
        (news(CHAIN[0], chain("filter", "DOCKER")), False, False),
        (news(CHAIN[0], chain("mine", "DOCKER-USER")), False, False),
        (news(RULE[1], rule("filter", "DOCKER-USER")), False, True),
        (news(RULE[1], rule("filter", "DOCKER-USER"), OURS), False, False),
        (news(RULE[0], rule("filter", "DOCKER-USER")), False, False),
        (news(RULE[1], rule("filter", "x")) + news(CHAIN[0], chain("filter", "DOCKER-USER")), False, True),
        (news(RULE[1], rule("filter", "x"))[:19], False, False),
        (bytes(16), False, False),
    ],
)
def test_what_others_did(told: bytes, flushed: bool, way_closed: bool) -> None:
    watch = Watch("proa", flushed=nothing, way_closed=nothing)
    assert watch.concerns(told, lambda sender: sender == OURS) == (flushed, way_closed)


async def test_a_burst_is_one_call_and_one_more_for_what_comes_meanwhile() -> None:
    begun: list[asyncio.Event] = []

    async def call() -> None:
        begun.append(asyncio.Event())
        await begun[-1].wait()

    again = Again(call)
    for _ in range(3):
        again.tell()
    await asyncio.sleep(0)
    assert len(begun) == 1
    for _ in range(3):
        again.tell()
    begun[0].set()
    for _ in range(3):
        await asyncio.sleep(0)
    assert len(begun) == 2
    begun[1].set()
    again.cancel()
