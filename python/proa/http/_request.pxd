# The fields of a request, which the connection fills in as it learns them.

cdef class Request:
    cdef readonly str method
    cdef readonly str path
    cdef readonly str query
    cdef readonly dict headers
    cdef readonly object route
    cdef readonly str name
    cdef readonly int minor
    cdef readonly object body
    cdef readonly object connection
    cdef readonly bint keep_alive
    cdef readonly bint chunked
    cdef readonly long long length
    cdef readonly bint http10
    cdef bint expects_continue


cdef Request parse_request(bytes head)


cdef class Flow:
    cdef object _loop

    cdef void want_body(self)
    cdef void pause_reading(self)
    cdef void resume_reading(self) except *
    cdef object lend(self)
    cdef void take_back(self, object state) except *


cdef class BodyStream:
    cdef Flow _flow
    cdef object _chunks
    cdef Py_ssize_t _held
    cdef object _waiter
    cdef object _error
    cdef bint _ended

    cdef void feed(self, bytes chunk)
    cdef void finish(self, object error)
    cdef void wake(self)


cdef BodyStream empty_body(Flow flow)
