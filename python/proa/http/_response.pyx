# cython: language_level=3, boundscheck=False, initializedcheck=False
"""The bytes of an answer: its head's end and its framing.

It must not know a connection: whoever writes them says whether it goes on.

Source: RFC 9112, sections 6 and 7.
"""

import time
from email.utils import formatdate

cdef long long date_second = 0
cdef bytes date_line = b""


cdef bytes current_date():
    """The Date header's line, made once a second."""
    global date_second, date_line
    cdef long long now = <long long>time.time()
    if now != date_second:
        date_second = now
        date_line = b"Date: " + formatdate(now, usegmt=True).encode() + b"\r\n"
    return date_line


cdef bytes framing(long long length, bint chunked):
    """What ends the head of a streamed answer."""
    if length >= 0:
        return b"Content-Length: %d\r\n\r\n" % length
    return b"Transfer-Encoding: chunked\r\n\r\n" if chunked else b"\r\n"


cdef bytes whole(response, bytes end, bint headless):
    """An answer that is not streamed; `end` is what the connection adds to its head."""
    cdef bytes body
    if response.bodyless:
        return response.head + end + b"\r\n"
    body = response.body
    if headless:
        return b"%b%bContent-Length: %d\r\n\r\n" % (response.head, end, len(body))
    return b"%b%bContent-Length: %d\r\n\r\n%b" % (response.head, end, len(body), body)
