"""The records of volumes, and the local driver's directories: <data_root>/volumes/<name>/_data.

    store = VolumeStore(database, root)
    store.path(name)                     where a volume has its data, existing or not
    store.create(name, ...)              made, or given back as it is: idempotent
    store.get / store.list               records
    store.take_away(name) -> directory   record gone and directory renamed; the caller deletes the tree
    store.mounted / unmounted / mounts   who has what mounted, so that a crash leaves nothing unknown

Everything here is a few direct system calls and one row, made in the loop thread. Must not know
containers: who uses a volume is the engine's business. A directory without a row is garbage (`sweep`).
"""

import os
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from proa.errors import Conflict, InvalidParameter, NotFound, System

SCHEMA = (
    """
    CREATE TABLE volumes (
        name TEXT PRIMARY KEY,
        created_ns INTEGER NOT NULL,
        labels BLOB NOT NULL,
        options BLOB NOT NULL
    );
    """,
    """
    ALTER TABLE volumes ADD COLUMN driver TEXT NOT NULL DEFAULT 'local';
    CREATE TABLE volume_mounts (
        volume TEXT NOT NULL,
        holder TEXT NOT NULL,
        PRIMARY KEY (volume, holder)
    ) WITHOUT ROWID;
    """,
)

DRIVER = "local"
ANONYMOUS_LABEL = "com.docker.volume.anonymous"

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_REMOVED = ".removed-"
"""Prefix of directories on their way out; no volume can have such a name."""

_encode = msgspec.json.encode
_decode_map = msgspec.json.Decoder(dict[str, str]).decode


class Database(Protocol):
    """The metadata store, as this room sees it."""

    def query(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]: ...
    def execute(self, sql: str, parameters: Sequence[object] = ()) -> int: ...


class VolumeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One volume."""

    name: str
    path: str
    created_ns: int
    labels: dict[str, str]
    options: dict[str, str]
    driver: str = DRIVER

    @property
    def mounts(self) -> bool:
        """It is there only while it is mounted: a plugin's, or one on a file system of its own."""
        return self.driver != DRIVER or "type" in self.options

    @property
    def anonymous(self) -> bool:
        """Made for one container, with a name that nobody chose."""
        return ANONYMOUS_LABEL in self.labels


class VolumeStore:
    """The volumes of this host."""

    def __init__(self, database: Database, root: str) -> None:
        """`root` is made if missing."""
        self._database = database
        self._root = root
        os.makedirs(root, 0o700, exist_ok=True)
        rows = database.query("SELECT name, created_ns, labels, options, driver FROM volumes")
        self._volumes = {row[0]: self._record(*row) for row in rows}

    def path(self, name: str) -> str:
        """Where a volume of this name has its data, existing or not."""
        return f"{self._root}/{name}/_data"

    def find(self, name: str) -> VolumeRecord | None:
        """The volume, None where there is none."""
        return self._volumes.get(name)

    def get(self, name: str) -> VolumeRecord:
        """The volume; raises NotFound."""
        found = self._volumes.get(name)
        if found is None:
            raise NotFound(f"get {name}: no such volume")
        return found

    def list(self) -> Sequence[VolumeRecord]:
        """All of them, by name."""
        return sorted(self._volumes.values(), key=lambda volume: volume.name)

    def create(
        self,
        name: str = "",
        *,
        driver: str = "",
        options: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> tuple[VolumeRecord, bool]:
        """(the volume, whether it is new); without a name it gets a random one, and is anonymous.

        Driver and options are checked. Raises InvalidParameter, Conflict (there with others), System.
        """
        all_labels = dict(labels or {})
        if not name:
            name = os.urandom(32).hex()
            all_labels.setdefault(ANONYMOUS_LABEL, "")
        check_name(name)
        present = self._volumes.get(name)
        if present is not None:
            if driver and driver != present.driver:
                raise Conflict(f"create {name}: conflict: volume name must be unique")
            return present, False  # as it was made, whatever the options say
        record = VolumeRecord(
            name=name,
            path=self.path(name),
            created_ns=time.time_ns(),
            labels=all_labels,
            options=dict(options or {}),
            driver=driver or DRIVER,
        )
        self._make(record)
        return record, True

    def take_away(self, name: str) -> str:
        """Forget the volume; returns the directory that is left for the caller to delete.

        Raises NotFound, System. A crash in between leaves a directory that `sweep` finds.
        """
        self.get(name)
        grave = f"{self._root}/{_REMOVED}{os.urandom(8).hex()}"
        self._database.execute("DELETE FROM volumes WHERE name = ?", (name,))
        del self._volumes[name]
        try:
            os.rename(f"{self._root}/{name}", grave)
        except FileNotFoundError:
            pass  # somebody removed it by hand
        except OSError as exc:
            raise System(f"remove {name}: {(exc.strerror or '').lower()}") from exc
        return grave

    def sweep(self) -> Sequence[str]:
        """Directories that belong to no volume: half-made or half-removed ones, to be deleted."""
        try:
            return [entry.path for entry in os.scandir(self._root) if entry.name not in self._volumes]
        except OSError as exc:
            raise System(f"volumes: {(exc.strerror or '').lower()}") from exc

    def _make(self, record: VolumeRecord) -> None:
        directory = f"{self._root}/{record.name}"
        try:
            if record.driver != DRIVER:
                self._insert(record)
                return
            os.makedirs(directory, 0o700, exist_ok=True)
            os.makedirs(record.path, 0o755, exist_ok=True)
        except OSError as exc:
            raise System(
                f"create {record.name}: mkdir {exc.filename}: {(exc.strerror or '').lower()}"
            ) from exc
        self._insert(record)

    def _insert(self, record: VolumeRecord) -> None:
        row = (record.name, record.created_ns, _encode(record.labels), _encode(record.options), record.driver)
        self._database.execute(
            "INSERT INTO volumes (name, created_ns, labels, options, driver) VALUES (?, ?, ?, ?, ?)", row
        )
        self._volumes[record.name] = record

    # ---- mounts ----------------------------------------------------------------------------------

    def mounts(self) -> Sequence[tuple[str, str]]:
        """Every (volume, holder) that may be mounted."""
        return [(row[0], row[1]) for row in self._database.query("SELECT volume, holder FROM volume_mounts")]

    def mounted(self, name: str, holder: str) -> None:
        """It is about to be mounted for `holder`: known before it happens."""
        self._database.execute("INSERT OR IGNORE INTO volume_mounts VALUES (?, ?)", (name, holder))

    def unmounted(self, name: str, holder: str) -> None:
        """The holder has done with it."""
        self._database.execute("DELETE FROM volume_mounts WHERE volume = ? AND holder = ?", (name, holder))

    # ---- inside ----------------------------------------------------------------------------------

    def _record(self, name: str, created_ns: int, labels: bytes, options: bytes, driver: str) -> VolumeRecord:
        return VolumeRecord(
            name=name,
            path=self.path(name),
            created_ns=created_ns,
            labels=_decode_map(labels),
            options=_decode_map(options),
            driver=driver,
        )


def check_name(name: str) -> None:
    """Names become directories: letters, digits, `_.-`, two characters at least. Raises InvalidParameter."""
    if len(name) < 2:
        raise InvalidParameter(
            f"create {name}: volume name is too short, names should be at least two alphanumeric characters"
        )
    if not _NAME.fullmatch(name) or len(name) > 255:
        raise InvalidParameter(
            f'create {name}: "{name}" includes invalid characters for a local volume name, only '
            '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. '
            "If you intended to pass a host directory, use absolute path"
        )
