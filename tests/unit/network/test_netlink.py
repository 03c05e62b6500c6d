"""Attributes and ruleset messages: what goes over the socket."""

import struct

from proa.network import nftables as nft
from proa.network.netlink import attribute, attributes, be32, nested, string, u32


def test_attributes_are_padded_and_read_back() -> None:
    data = string(1, "abc") + attribute(2, b"12345") + nested(3, u32(1, 7))
    assert len(data) % 4 == 0
    assert dict(attributes(data)) == {1: b"abc\0", 2: b"12345", 3: u32(1, 7)}


def test_a_truncated_attribute_ends_the_reading() -> None:
    assert list(attributes(attribute(1, b"abcd")[:6])) == []
    assert list(attributes(b"\0\0\0\0")) == []


def test_numbers_of_nfnetlink_are_big_endian_and_may_be_negative() -> None:
    assert be32(1, -1)[4:] == b"\xff\xff\xff\xff"
    assert be32(1, 1)[4:] == b"\0\0\0\x01"


def test_a_transaction_is_marked_at_both_ends() -> None:
    messages = nft.transaction([nft.new_table("t")])
    assert [m.type for m in messages] == [16, 10 << 8, 17]
    assert messages[0].payload == struct.pack(">BBH", 0, 0, 10)
    assert messages[1].payload.startswith(struct.pack(">BBH", nft.INET, 0, 0) + string(1, "t"))


def test_interface_names_are_padded_to_their_size() -> None:
    assert nft.interface_key("a", "b") == b"a" + bytes(15) + b"b" + bytes(15)
