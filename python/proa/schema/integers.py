"""Go's int64, which is what every number of a request is to Docker's clients, to SQLite and to the keeper."""

from typing import Annotated

from msgspec import Meta

Int64 = Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
