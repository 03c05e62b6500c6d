"""Frames, detach keys, and the two-way copy."""

import os
import socket

import pytest

from proa.cli.conversation import Conversation, Detached, EscapeProxy, detach_sequence
from proa.cli.failure import Failure
from proa.cli.streams import Demultiplexer
from proa.cli.transport import Connection


def frame(stream: int, data: bytes) -> bytes:
    return bytes([stream, 0, 0, 0]) + len(data).to_bytes(4, "big") + data


@pytest.mark.parametrize("step", [1, 3, 7, 1000])
def test_frames_in_pieces_of_any_size(step: int) -> None:
    wire = frame(1, b"out") + frame(2, b"error") + frame(1, b"") + frame(1, b"!")
    frames = Demultiplexer(11, 12)
    seen: dict[int | None, bytes] = {}
    for start in range(0, len(wire), step):
        for fd, data in frames.feed(wire[start : start + step]):
            seen[fd] = seen.get(fd, b"") + data
    assert seen == {11: b"out!", 12: b"error"}


def test_a_stream_that_is_not_framed_is_refused() -> None:
    with pytest.raises(Failure, match="Unrecognized input header: 104"):
        list(Demultiplexer(1, 2).feed(b"hello world"))


@pytest.mark.parametrize(
    ("pieces", "passed", "detached"),
    [
        ([b"ab"], b"ab", False),
        ([b"a\x10\x11b"], b"a", True),
        ([b"\x10", b"\x11"], b"", True),
        ([b"\x10x"], b"\x10x", False),
        ([b"\x10\x10\x11"], b"\x10", True),
    ],
)
def test_detach_keys(pieces: list[bytes], passed: bytes, detached: bool) -> None:
    proxy = EscapeProxy(b"\x10\x11")
    out, ended = b"", False
    for piece in pieces:
        data, ended = proxy.feed(piece)
        out += data
    assert (out, ended) == (passed, detached)


def test_detach_sequences() -> None:
    assert detach_sequence("") == b"\x10\x11"
    assert detach_sequence("ctrl-a,ctrl-@,x,ctrl-]") == b"\x01\x00x\x1d"
    with pytest.raises(Failure, match="invalid detach keys"):
        detach_sequence("ctrl-")


class Peer:
    """The container's end of an attached connection."""

    def __init__(self, stdin: bytes, tty: bool) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.theirs.setblocking(False)
        reader, writer = os.pipe()
        os.write(writer, stdin)
        self.stdin, self.stdin_writer = reader, writer
        self.stdout_reader, self.stdout = os.pipe()
        self.conversation = Conversation(
            Connection(self.ours), tty, reader, self.stdout, self.stdout, b"\x10\x11"
        )

    def close(self) -> None:
        for end in (self.ours, self.theirs):
            end.close()
        for fd in (self.stdin, self.stdout_reader, self.stdout):
            os.close(fd)


def test_input_that_ended_is_half_closed_and_output_still_comes() -> None:
    peer = Peer(b"typed", tty=True)
    os.close(peer.stdin_writer)
    peer.theirs.sendall(b"answer")
    peer.theirs.shutdown(socket.SHUT_WR)
    peer.conversation.run()
    assert os.read(peer.stdout_reader, 100) == b"answer"
    peer.close()


def test_output_that_ended_ends_it_though_input_is_open() -> None:
    peer = Peer(b"", tty=False)
    peer.theirs.sendall(frame(1, b"bye"))
    peer.theirs.shutdown(socket.SHUT_WR)
    peer.conversation.run()
    assert os.read(peer.stdout_reader, 100) == b"bye"
    os.close(peer.stdin_writer)
    peer.close()


def test_detaching_sends_what_was_typed_before() -> None:
    peer = Peer(b"ls\x10\x11more", tty=True)
    with pytest.raises(Detached):
        peer.conversation.run()
    assert peer.theirs.recv(100) == b"ls"
    os.close(peer.stdin_writer)
    peer.close()
