"""The metadata store: what is committed survives, what is not does not, versions move forward only."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from proa.errors import System
from proa.metadata import CHECKPOINT_EVERY, Metadata

SCHEMA = ("CREATE TABLE thing (id TEXT PRIMARY KEY, size INTEGER)",)


@pytest.fixture
async def store(tmp_path: Path):
    metadata = Metadata(tmp_path / "db", {"things": SCHEMA})
    yield metadata
    await metadata.close()


async def test_what_was_executed_is_there_for_the_next_one_who_opens(tmp_path: Path) -> None:
    first = Metadata(tmp_path / "db", {"things": SCHEMA})
    assert first.execute("INSERT INTO thing VALUES ('a', 1)") == 1
    await first.close()
    second = Metadata(tmp_path / "db", {"things": SCHEMA})
    assert second.query("SELECT * FROM thing") == [("a", 1)]
    await second.close()


def _insert_and_fail(store: Metadata) -> None:
    with store.transaction():
        with store.transaction():
            store.execute("INSERT INTO thing VALUES ('a', 1)")
        raise ValueError("no")


async def test_a_failed_transaction_leaves_nothing(store: Metadata) -> None:
    with pytest.raises(ValueError, match="no"):
        _insert_and_fail(store)
    assert store.query("SELECT * FROM thing") == []


async def test_transactions_nest_and_the_outermost_commits(store: Metadata) -> None:
    def nested() -> None:
        with store.transaction():
            _insert_and_fail(store)

    with pytest.raises(ValueError, match="no"):
        nested()
    assert store.query("SELECT * FROM thing") == []


async def test_a_foreign_error_is_translated(store: Metadata) -> None:
    store.execute("INSERT INTO thing VALUES ('a', 1)")
    with pytest.raises(System, match="UNIQUE constraint"):
        store.execute("INSERT INTO thing VALUES ('a', 1)")
    with pytest.raises(System, match="no such table"):
        store.query("SELECT * FROM absent")


async def test_schema_versions_are_applied_once_and_in_order(tmp_path: Path) -> None:
    await Metadata(tmp_path / "db", {"things": SCHEMA}).close()
    newer = Metadata(tmp_path / "db", {"things": (*SCHEMA, "ALTER TABLE thing ADD COLUMN name TEXT;")})
    newer.execute("INSERT INTO thing VALUES ('a', 1, 'n')")
    await newer.close()
    with pytest.raises(System, match="has version 2, this proad knows 1"):
        Metadata(tmp_path / "db", {"things": SCHEMA})


async def test_the_log_is_written_back_after_many_commits(store: Metadata, tmp_path: Path) -> None:
    for number in range(CHECKPOINT_EVERY):
        store.execute("INSERT INTO thing VALUES (?, 1)", (str(number),))
    assert store._checkpoint is not None
    await asyncio.wait([store._checkpoint])
    assert (tmp_path / "db").stat().st_size > 4096


def test_commits_survive_the_sudden_death_of_the_process(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from proa.metadata import Metadata\n"
        f"store = Metadata(Path({str(tmp_path / 'db')!r}), {{'things': {SCHEMA!r}}})\n"
        "store.execute(\"INSERT INTO thing VALUES ('a', 1)\")\n"
        "os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", program], env=dict(os.environ)).returncode == -9
    assert Metadata(tmp_path / "db", {"things": SCHEMA}).query("SELECT id FROM thing") == [("a",)]
