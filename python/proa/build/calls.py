"""Calls that a thread does: one that has begun cannot be called off, and what it writes to must stay."""

import asyncio
from typing import TypeVar

_T = TypeVar("_T")


async def to_its_end(call: "asyncio.Future[_T]") -> _T:
    """The outcome of a call; cancelled, this ends when the call has."""
    try:
        return await asyncio.shield(call)
    except asyncio.CancelledError:
        await asyncio.wait((call,))
        if not call.cancelled():
            call.exception()  # nobody else will ask
        raise
