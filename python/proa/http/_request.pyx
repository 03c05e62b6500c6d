# cython: language_level=3, boundscheck=False, initializedcheck=False
"""A request: its head parsed, and its body as it arrives.

Must not read from anywhere: the connection finds where things end, and a body asks it (`Flow`) for more.

The parser is its own and not httptools': Docker's clients send `Upgrade: tcp` together with a body that
belongs to the request (exec start) and expect the bytes after that body untouched, while httptools ends the
message at the head when it sees Upgrade and cannot stop at a message's end without it. The tests hold the
two parsers against each other. It is strict: CRLF only, no folding, no ambiguous length.

Source: RFC 9112, sections 2 to 6.
"""

from collections import deque
from copy import copy

from libc.string cimport memchr

cdef enum:
    BODY_HIGH = 1048576         # bytes of a streamed body held before reading stops
    BODY_LOW = 262144

METHODS = frozenset((b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH"))

# RFC 9110 5.6.2: the characters of a token.
cdef bint[256] TOKEN
for _byte in range(256):
    TOKEN[_byte] = chr(_byte) in "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


class HttpError(Exception):
    """The bytes are no acceptable HTTP: answered with `status`, then the connection closes."""

    def __init__(self, status, message):
        super().__init__(message)
        self.status = status


cdef class Request:
    """A request's head, and its body once the route said how to read it."""


cdef Request parse_request(bytes head):
    """Parse a head without its last empty line; raises HttpError."""
    cdef const char* data = head
    cdef Py_ssize_t size = len(head)
    cdef Py_ssize_t line_end, start, colon, i, first, last
    cdef const char* found
    cdef Request request = Request.__new__(Request)
    cdef str key, value
    cdef dict headers = {}
    line_end = find_line_end(data, 0, size)
    parse_request_line(request, head[:line_end])
    start = line_end + 2
    while start < size:
        line_end = find_line_end(data, start, size)
        found = <const char*>memchr(data + start, 58, line_end - start)
        if found == NULL or found == data + start:
            raise HttpError(400, "malformed header line")
        colon = found - data
        for i in range(start, colon):
            if not TOKEN[<unsigned char>data[i]]:
                raise HttpError(400, "invalid header name")
        first, last = colon + 1, line_end
        while first < last and (data[first] == 32 or data[first] == 9):
            first += 1
        while last > first and (data[last - 1] == 32 or data[last - 1] == 9):
            last -= 1
        for i in range(first, last):
            if (<unsigned char>data[i] < 32 and data[i] != 9) or data[i] == 127:
                raise HttpError(400, "invalid header value")
        key = data[start:colon].decode("latin-1").lower()
        value = data[first:last].decode("latin-1")
        if key in headers:
            if key == "content-length" or key == "transfer-encoding" or key == "host":
                raise HttpError(400, f"repeated header: {key}")
            value = headers[key] + ", " + value
        headers[key] = value
        start = line_end + 2
    request.headers = headers
    frame(request)
    return request


cdef Py_ssize_t find_line_end(const char* data, Py_ssize_t start, Py_ssize_t size) except -1:
    """Where the line's CRLF is, or the end of the head."""
    cdef const char* found = <const char*>memchr(data + start, 13, size - start)
    cdef Py_ssize_t end
    if found == NULL:
        return size
    end = found - data
    if end + 1 >= size or data[end + 1] != 10:
        raise HttpError(400, "malformed line end")
    return end


cdef void parse_request_line(Request request, bytes line) except *:
    cdef list parts = line.split(b" ")
    cdef bytes method, target, version
    if len(parts) != 3:
        raise HttpError(400, "malformed request line")
    method, target, version = parts
    if version == b"HTTP/1.1":
        request.http10 = False
    elif version == b"HTTP/1.0":
        request.http10 = True
    else:
        raise HttpError(505 if version.startswith(b"HTTP/") else 400, "unsupported HTTP version")
    if method not in METHODS:
        raise HttpError(501, "unsupported method")
    if not target.startswith(b"/"):
        raise HttpError(400, "malformed request line")
    try:
        text = target.decode()
    except UnicodeDecodeError:
        raise HttpError(400, "malformed request target") from None
    if not text.isprintable():
        raise HttpError(400, "malformed request target")
    request.method = method.decode("ascii")
    request.path, _, request.query = text.partition("?")


cdef void frame(Request request) except *:
    """Find out how the body is framed and whether the connection outlives the request."""
    cdef dict headers = request.headers
    cdef str connection = headers.get("connection", "").lower()
    length = headers.get("content-length")
    coding = headers.get("transfer-encoding")
    if coding is not None:
        if length is not None or request.http10:
            raise HttpError(400, "ambiguous body length")
        if coding.lower() != "chunked":
            raise HttpError(501, f"unsupported transfer encoding: {coding}")
        request.chunked = True
    elif length is not None:
        if not (length.isascii() and length.isdigit()) or len(length) > 18:
            raise HttpError(400, "invalid Content-Length")
        request.length = int(length)
    if not request.http10 and "host" not in headers:
        raise HttpError(400, "missing required Host header")
    if request.http10:
        request.keep_alive = "keep-alive" in connection
    else:
        request.keep_alive = "close" not in connection
        request.expects_continue = headers.get("expect", "").lower() == "100-continue"


def parse_head(bytes head):
    """Parse one request head that ends with its empty line (for tests and fuzzing)."""
    if not head.endswith(b"\r\n\r\n"):
        raise HttpError(400, "incomplete head")
    return parse_request(head[:-4])


cdef class Flow:
    """What a body asks of the connection that it comes from."""

    cdef void want_body(self):
        """The body is about to be read."""

    cdef void pause_reading(self):
        """Enough is held."""

    cdef void resume_reading(self) except *:
        """There is room again."""

    cdef object lend(self):
        """What BodyStream.lend gives."""

    cdef void take_back(self, object state) except *:
        """What BodyStream.take_back is told."""


cdef class BodyStream:
    """A request's body as it arrives; reading stops while its consumer is slow."""

    def __cinit__(self, Flow flow):
        self._flow = flow
        self._chunks = deque()

    def __aiter__(self):
        return self

    async def __anext__(self):
        while not self._chunks:
            if self._error is not None:
                # Another one: its traceback leads here, and with it everything on the way would wait for
                # the garbage collector.
                raise copy(self._error)
            if self._ended:
                raise StopAsyncIteration
            self._flow.want_body()
            self._waiter = self._flow._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        chunk = self._chunks.popleft()
        self._held -= len(chunk)
        if self._held < BODY_LOW:
            self._flow.resume_reading()
        return chunk

    def lend(self):
        if self._chunks or self._ended or self._error is not None:
            return None
        self._flow.want_body()
        return self._flow.lend()

    def take_back(self, state):
        self._flow.take_back(state)

    cdef void feed(self, bytes chunk):
        self._chunks.append(chunk)
        self._held += len(chunk)
        self.wake()
        if self._held > BODY_HIGH:
            self._flow.pause_reading()

    cdef void finish(self, object error):
        if not self._ended and self._error is None:
            self._error = error
            self._ended = error is None
        self.wake()

    cdef void wake(self):
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


cdef BodyStream empty_body(Flow flow):
    """The stream of a request that has no body."""
    cdef BodyStream stream = BodyStream.__new__(BodyStream, flow)
    stream.finish(None)
    return stream
