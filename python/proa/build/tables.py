"""The table of the build cache, apart from what uses it: the daemon opens its database before it builds."""

from typing import Final

SCHEMA: Final = (
    """
    CREATE TABLE build_cache (
        key TEXT PRIMARY KEY,
        chain_id TEXT NOT NULL,
        diff_id TEXT NOT NULL,
        description TEXT NOT NULL,
        created_ns INTEGER NOT NULL,
        used_ns INTEGER NOT NULL,
        uses INTEGER NOT NULL,
        reads BLOB NOT NULL
    ) STRICT, WITHOUT ROWID
    """,
)
