# cython: language_level=3, boundscheck=False, initializedcheck=False
"""One client's connection: HTTP/1.1 bytes in, one handler at a time, HTTP/1.1 bytes out.

Owns the framing of bodies, keep-alive, pipelining, flow control, deadlines and the hand-over of the socket
(hijack). It must not know a route or an error class: the service it is built with resolves and answers
requests. What a head says is `_request`'s, the bytes of an answer are `_response`'s.

    HEAD -> FIXED ----------------------------> COMPLETE -> HEAD   (COMPLETE while the handler runs on)
         -> CHUNK_SIZE <-> CHUNK_DATA/CHUNK_END
            CHUNK_SIZE -> TRAILERS -----------> COMPLETE

Source: RFC 9112.
"""

import asyncio
import os

from proa.http._request import HttpError
from proa.http._request cimport BodyStream, Flow, Request, empty_body, parse_request
from proa.http._response cimport current_date, framing, whole

cdef enum State:
    HEAD, FIXED, CHUNK_SIZE, CHUNK_DATA, CHUNK_END, TRAILERS, COMPLETE, CLOSED

cdef enum:
    PIPELINE_BYTES = 65536      # read ahead of a running handler before reading stops
    CHUNK_LINE = 1024           # a chunk's size line with its extensions
    DISCARD_BYTES = 67108864    # what is read of a body nobody wants, so that its client sees the answer

cdef double REFUSAL_SECONDS = 1.0     # a client not admitted may ask once within this, to be told why
cdef double FOREVER = float("inf")

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
PHASES = {FIXED: "fixed", CHUNK_SIZE: "chunk-size", CHUNK_DATA: "chunk-data", CHUNK_END: "chunk-end"}
STATES = {phase: state for state, phase in PHASES.items()}


cdef class Connection(Flow):
    """The asyncio protocol of one client."""

    cdef object _service
    cdef object _transport
    cdef object _task
    cdef object _timer
    cdef object _drained
    cdef object _refusal
    cdef bytearray _buffer
    cdef bytearray _collected
    cdef Request _request
    cdef BodyStream _stream
    cdef long long _remaining
    cdef long long _discarded
    cdef Py_ssize_t _scanned
    cdef State _state
    cdef double _deadline
    cdef double _due
    cdef bint _reading_paused
    cdef bint _writing_paused
    cdef bint _discarding
    cdef bint _continued
    cdef bint _responding
    cdef bint _close_after
    cdef bint _eof
    cdef bint _detached
    cdef object __weakref__

    def __init__(self, service, loop):
        self._service = service
        self._loop = loop
        self._buffer = bytearray()
        self._state = HEAD

    # --- asyncio.Protocol -------------------------------------------------------------------------------

    def connection_made(self, transport):
        self._transport = transport
        cdef double timeout = self._service.limits.head_timeout
        try:
            self._refusal = self._service.admit(self, transport)
        except BaseException:
            self._abort()
            raise
        if self._refusal is not None:
            timeout = min(timeout, REFUSAL_SECONDS)
        self._due = FOREVER
        self._deadline = self._loop.time() + timeout
        self._arm()

    def data_received(self, data):
        if self._state == CLOSED:
            return
        if self._state == HEAD:
            if not self._buffer and self._refusal is None:
                self._deadline = self._loop.time() + self._service.limits.head_timeout
        elif self._stream is not None and self._state != COMPLETE:
            self._deadline = self._loop.time() + self._service.limits.body_timeout
        if self._goes_straight_on(data):
            self._remaining -= len(data)
            self._stream.feed(data)
            if self._remaining == 0:
                self._complete()
        else:
            self._buffer += data
            self._advance()
        if self._state != COMPLETE and self._state != CLOSED:
            self._arm()

    cdef bint _goes_straight_on(self, data):
        """Whether this is the middle of a streamed body, which then needs no copy."""
        return (
            self._state == FIXED
            and self._stream is not None
            and not self._buffer
            and type(data) is bytes
            and len(data) <= self._remaining
        )

    def eof_received(self):
        """Half-closed by the client: a plain answer still goes out, a streamed one ends."""
        self._eof = True
        self._fail_body()
        if self._task is None:
            return False
        if self._responding:
            self._task.cancel()
        return True

    def connection_lost(self, exc):
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        streams_body = self._stream is not None
        self._fail_body()
        self._state = CLOSED
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        if self._task is None:
            self._let_go()
        elif not self._detached and (self._responding or streams_body):
            self._task.cancel()
        self._service.forget(self)

    def pause_writing(self):
        self._writing_paused = True

    def resume_writing(self):
        self._writing_paused = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    # --- reading ----------------------------------------------------------------------------------------

    cdef void _advance(self) except *:
        cdef bint more = True
        while more:
            try:
                more = self._step()
            except HttpError as error:
                self._refuse(error)
        if self._state == COMPLETE and len(self._buffer) > PIPELINE_BYTES:
            self.pause_reading()

    cdef bint _step(self) except *:
        """Read the next part of a message; False when more bytes or the handler must come first."""
        if self._state == HEAD:
            return self._read_head()
        if self._state == FIXED or self._state == CHUNK_DATA:
            return self._read_body()
        if self._state == CHUNK_SIZE:
            return self._read_chunk_size()
        if self._state == CHUNK_END:
            return self._read_chunk_end()
        if self._state == TRAILERS:
            return self._read_trailer()
        return False

    cdef bint _read_head(self) except *:
        cdef Py_ssize_t end
        while self._buffer.startswith(b"\r\n"):    # RFC 9112 2.2: empty lines before a request
            del self._buffer[:2]
            self._scanned = 0
        if self._buffer and self._buffer[0] == 0x16:    # a TLS handshake, whose client waits for an answer
            raise HttpError(400, "client sent an HTTPS request to an HTTP server")
        end = self._buffer.find(b"\r\n\r\n", self._scanned)
        if end < 0:
            if len(self._buffer) > self._service.limits.head_bytes:
                raise HttpError(431, "request header too large")
            self._scanned = max(0, len(self._buffer) - 3)
            return False
        if end > self._service.limits.head_bytes:
            raise HttpError(431, "request header too large")
        self._scanned = 0
        self._request = parse_request(bytes(self._buffer[:end]))
        del self._buffer[:end + 4]
        self._begin(self._request)
        return True

    cdef void _begin(self, Request request) except *:
        """Route the request and get ready for its body."""
        if self._refusal is not None:
            self._close_after = True
            self._write_reply(self._refusal, request.method == "HEAD")
            self._close()
            return
        request.connection = self
        request.route, request.name, request.minor = self._service.resolve(request.method, request.path)
        self._continued = False
        self._discarding = False
        self._discarded = 0
        self._stream = None
        self._collected = bytearray()
        if not request.chunked and request.length == 0:
            request.body = empty_body(self) if request.route.streams_body else b""
            self._complete()
            return
        self._remaining = request.length
        self._state = CHUNK_SIZE if request.chunked else FIXED
        self._deadline = self._loop.time() + self._service.limits.body_timeout
        if request.route.streams_body:
            self._stream = BodyStream.__new__(BodyStream, self)
            request.body = self._stream
            self._dispatch()
            return
        if request.length > self._service.limits.body_bytes:
            self._discarding = True
            raise HttpError(413, "request body too large")
        self.want_body()

    cdef bint _read_body(self) except *:
        cdef Py_ssize_t size = len(self._buffer)
        cdef bytes chunk
        if size == 0:
            return False
        if size > self._remaining:
            size = <Py_ssize_t>self._remaining
            chunk = (<char*>self._buffer)[:size]
            del self._buffer[:size]
        else:
            chunk = bytes(self._buffer)
            self._buffer.clear()
        self._remaining -= size
        self._take(chunk)
        if self._remaining == 0:
            if self._state == FIXED:
                self._complete()
            else:
                self._state = CHUNK_END
        return self._state != CLOSED

    cdef void _take(self, bytes chunk) except *:
        if self._discarding:
            self._discarded += len(chunk)
            if self._discarded > DISCARD_BYTES:
                self._close()
        elif self._stream is not None:
            self._stream.feed(chunk)
        else:
            self._collected += chunk
            if len(self._collected) > self._service.limits.body_bytes:
                self._discarding = True
                raise HttpError(413, "request body too large")

    cdef bint _read_chunk_size(self) except *:
        cdef Py_ssize_t end = self._buffer.find(b"\r\n")
        if end < 0:
            if len(self._buffer) > CHUNK_LINE:
                raise HttpError(400, "invalid chunk")
            return False
        text = bytes(self._buffer[:end]).partition(b";")[0].rstrip(b" \t")
        del self._buffer[:end + 2]
        if end > CHUNK_LINE or not 0 < len(text) <= 15 or not all(c in b"0123456789abcdefABCDEF" for c in text):
            raise HttpError(400, "invalid chunk")
        self._remaining = int(text, 16)
        self._state = CHUNK_DATA if self._remaining else TRAILERS
        return True

    cdef bint _read_chunk_end(self) except *:
        if len(self._buffer) < 2:
            return False
        if not self._buffer.startswith(b"\r\n"):
            raise HttpError(400, "invalid chunk")
        del self._buffer[:2]
        self._state = CHUNK_SIZE
        return True

    cdef bint _read_trailer(self) except *:
        """Skip one trailer line; the empty one ends the message."""
        cdef Py_ssize_t end = self._buffer.find(b"\r\n")
        if end < 0:
            if len(self._buffer) > self._service.limits.head_bytes:
                raise HttpError(431, "request trailer too large")
            return False
        del self._buffer[:end + 2]
        self._discarded += end
        if self._discarded > self._service.limits.head_bytes and not self._discarding:
            raise HttpError(431, "request trailer too large")
        if end == 0:
            self._complete()
        return True

    cdef void _complete(self) except *:
        """The message is read; dispatch it unless its handler runs already."""
        self._state = COMPLETE
        self._deadline = FOREVER
        if self._stream is not None:
            self._stream.finish(None)
            if self._task is None:
                self._next()
        elif self._discarding:
            self._next()
        else:
            if self._collected:
                self._request.body = bytes(self._collected)
                self._collected = bytearray()
            elif self._request.body is None:
                self._request.body = b""
            self._dispatch()

    cdef void _dispatch(self) except *:
        if self._request.route.hijacks:
            self.pause_reading()
        self._task = self._loop.create_task(self._run(self._request))

    cdef void want_body(self):
        """The body is about to be read: tell a client that waits for leave to send it."""
        if self._request.expects_continue and not self._continued and self._transport is not None:
            self._continued = True
            self._transport.write(CONTINUE)

    cdef void _fail_body(self):
        """No more bytes come: an unfinished body has failed."""
        if self._stream is not None and self._state != COMPLETE:
            self._stream.finish(self._service.body_cut_short())

    cdef void pause_reading(self):
        if not self._reading_paused and self._transport is not None and self._state != CLOSED:
            self._reading_paused = True
            self._transport.pause_reading()
            if self._state != COMPLETE:
                self._deadline = FOREVER

    cdef void resume_reading(self) except *:
        if self._reading_paused and self._transport is not None and self._state != CLOSED:
            self._reading_paused = False
            if self._state != COMPLETE:
                self._deadline = self._loop.time() + self._service.limits.body_timeout
                self._arm()
            self._transport.resume_reading()

    cdef object lend(self):
        """The socket, while a plain body is on its way: (fd, phase, bytes left, bytes not parsed)."""
        if self._state not in PHASES or self._transport is None or self._eof or self._discarding:
            return None
        if hasattr(self._transport, "splice"):      # what the socket has is not what the client said
            return None
        self.pause_reading()
        unparsed = bytes(self._buffer)
        self._buffer.clear()
        fd = self._transport.get_extra_info("socket").fileno()
        return fd, PHASES[self._state], self._remaining, unparsed

    cdef void take_back(self, object state) except *:
        if self._state == CLOSED or self._transport is None:
            return
        if state is None:
            self._fail_body()
            self._abort()
            return
        phase, self._remaining, unparsed = state
        self._state = STATES[phase]
        self._buffer += unparsed
        self.resume_reading()
        if self._state == FIXED and self._remaining == 0:
            self._complete()
        self._advance()

    # --- answering --------------------------------------------------------------------------------------

    async def _run(self, Request request):
        """Answer one request; never raises but for cancellation."""
        try:
            response = await self._service.answer(request)
            if self._detached or self._transport is None:
                await self._service.discard(response)
            elif response.chunks is None:
                self._write_reply(response, request.method == "HEAD")
            else:
                await self._write_stream(response)
        except asyncio.CancelledError:
            self._close_after = True
            raise
        except BaseException as error:
            self._service.report(request, error)
            self._abort()
        finally:
            self._task = None
            self._responding = False
            self._end_response(request)

    cdef void _end_response(self, Request request) except *:
        if self._detached or self._transport is None:
            self._let_go()
        elif self._state == COMPLETE:
            self._next()
        elif self._eof or self._state == CLOSED or (request.expects_continue and not self._continued):
            self._close()     # of a client told nothing it is unknown whether the body follows
        else:
            self._discarding = True
            self._stream = None
            self.resume_reading()
            self._deadline = self._loop.time() + self._service.limits.body_timeout
            self._arm()

    cdef void _let_go(self):
        """Break the circles of references, which would otherwise wait for the garbage collector."""
        self._request = None
        self._stream = None

    cdef void _next(self) except *:
        """The exchange is over: on to the next one, or close."""
        if self._close_after or self._eof or not self._request.keep_alive:
            self._close()
            return
        self._let_go()
        self._state = HEAD
        self._deadline = self._loop.time() + self._service.limits.idle_timeout
        self._arm()
        self.resume_reading()
        if self._buffer:
            self._loop.call_soon(self._resume)

    def _resume(self):
        """Take up what a client sent ahead (pipelining)."""
        if self._state == HEAD and self._transport is not None:
            self._advance()

    cdef bint _keeps_alive(self):
        return not (self._close_after or self._eof) and self._request is not None and self._request.keep_alive

    cdef bytes _head_end(self):
        """The headers that the connection itself answers for."""
        if not self._keeps_alive():
            return current_date() + b"Connection: close\r\n"
        if self._request.http10:
            return current_date() + b"Connection: keep-alive\r\n"
        return current_date()

    cdef void _write_reply(self, response, bint headless) except *:
        self._transport.write(whole(response, self._head_end(), headless))

    async def _write_stream(self, response):
        """Send a streamed response; its source is closed whatever happens."""
        cdef long long length = response.length
        cdef bint chunked = length < 0 and not self._request.http10
        chunks = response.chunks
        try:
            if self._eof:
                self._close_after = True
                return
            self._responding = True
            if length < 0 and not chunked:
                self._close_after = True
            head = response.head + self._head_end() + framing(length, chunked)
            send_to = getattr(chunks, "send_to", None)
            if send_to is not None and not hasattr(self._transport, "splice"):
                await self._send_past(send_to, head)
                return
            self._transport.write(head)
            async for chunk in chunks:
                if self._transport is None:
                    return
                if chunk:
                    self._write_chunk(chunk if type(chunk) is bytes else bytes(chunk), chunked)
                if self._writing_paused:
                    await self._drain()
            if chunked and self._transport is not None:
                self._transport.write(b"0\r\n\r\n")
        finally:
            close = getattr(chunks, "aclose", None)
            if close is not None:
                await close()

    async def _send_past(self, send_to, bytes head):
        """Let the source write to the socket itself (sendfile), past the transport, which is empty then."""
        if self._transport.get_write_buffer_size():
            self._transport.set_write_buffer_limits(0)
            if self._writing_paused:
                await self._drain()
            if self._transport is None:
                return
            self._transport.set_write_buffer_limits()
        fd = os.dup(self._transport.get_extra_info("socket").fileno())
        try:
            await send_to(fd, head)
        finally:
            os.close(fd)

    cdef void _write_chunk(self, bytes chunk, bint chunked) except *:
        if not chunked:
            self._transport.write(chunk)
        elif len(chunk) < 16384:
            self._transport.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        else:
            self._transport.writelines((b"%x\r\n" % len(chunk), chunk, b"\r\n"))

    async def _drain(self):
        self._drained = self._loop.create_future()
        try:
            await self._drained
        finally:
            self._drained = None

    # --- closing ----------------------------------------------------------------------------------------

    cdef void _refuse(self, error) except *:
        """Answer a malformed request and close."""
        if self._stream is not None:
            self._stream.finish(self._service.body_malformed(str(error)))
            self._close_after = True
            self._state = CLOSED
            return
        self._close_after = True
        if self._transport is not None:
            self._write_reply(self._service.malformed(error.status, str(error)), False)
        if self._discarding and not self._request.expects_continue:
            self._deadline = self._loop.time() + self._service.limits.head_timeout
            self._arm()
        else:
            self._close()

    cdef void _close(self):
        self._state = CLOSED
        if self._transport is not None:
            self._transport.close()

    cdef void _abort(self):
        self._state = CLOSED
        if self._transport is not None:
            self._transport.abort()

    def _check_deadline(self):
        """Close an idle or slow client; otherwise look again when the next deadline is due."""
        self._timer = None
        self._due = FOREVER
        if self._deadline <= self._loop.time():
            self._fail_body()
            self._abort()
        else:
            self._arm()

    cdef void _arm(self) except *:
        """See to it that the timer comes by the deadline; a later deadline leaves it as it is.

        So a request that comes in one piece costs no timer.
        """
        if self._deadline >= self._due or self._transport is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._due = self._deadline
        self._timer = self._loop.call_later(max(0.0, self._due - self._loop.time()), self._check_deadline)

    def shut_down(self):
        """The server closes: let a plain answer finish, end everything else. Idempotent."""
        self._close_after = True
        if self._task is None:
            self._close()
        elif self._responding:
            self._task.cancel()
        return self._task

    # --- hijack -----------------------------------------------------------------------------------------

    @property
    def detached(self):
        """Whether the socket has been handed over."""
        return self._detached

    def detach(self):
        """Give the socket away: (fd, input read already); the server forgets the connection.

        The fd is a duplicate, non-blocking, and the caller's. The transport closes without a shutdown.
        """
        if self._task is None or self._detached or self._transport is None:
            raise ConnectionResetError("the client is gone")
        cdef bytes rest = bytes(self._buffer)
        transport = self._transport
        splice = getattr(transport, "splice", None)
        fd = os.dup(transport.get_extra_info("socket").fileno()) if splice is None else splice()
        self._detached = True
        self._state = CLOSED
        self._buffer.clear()
        if splice is None:
            transport.abort()
        return fd, rest
