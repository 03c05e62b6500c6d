cdef bytes current_date()
cdef bytes framing(long long length, bint chunked)
cdef bytes whole(response, bytes end, bint headless)
