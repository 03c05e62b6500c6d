"""The images that are known: records, names, who uses them, and what nobody needs any more.

Owns the tables of SCHEMA and one in-memory picture of them, from which every read is served. Must not read or
write archives: that is loading, saving and importing.

An image's id is the digest of its config blob, which is kept here as it came, and so is the manifest it was
pulled by: pushed again, it has the digest it had. A layer's blob is kept in the content store in the
compression it came with. Collection is mark and sweep, from images, containers and leases; a lease lives as
long as the work that holds it, since no such work survives the process.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Final

from proa.content import Content
from proa.engine.images import indexes, lineage, usage
from proa.engine.images.records import ImageRecord, Layer, StoredManifest, decode_image_file
from proa.engine.images.syncing import Syncing
from proa.engine.ports import Database
from proa.errors import InvalidParameter, NotFound
from proa.schema.image import ImageConfig
from proa.schema.oci import ImageFile
from proa.schema.reference import Digest, Reference, id_prefix, parse_reference
from proa.snapshots import Snapshots

SCHEMA: Final = (
    """
    CREATE TABLE images (
        id TEXT PRIMARY KEY,
        config BLOB NOT NULL,
        added_ns INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE image_layers (
        image TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE,
        position INTEGER NOT NULL,
        digest TEXT NOT NULL,
        diff_id TEXT NOT NULL,
        chain_id TEXT NOT NULL,
        PRIMARY KEY (image, position)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE image_names (
        name TEXT PRIMARY KEY,
        image TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE,
        tagged_ns INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE image_users (
        container TEXT PRIMARY KEY,
        image TEXT NOT NULL,
        chain_id TEXT NOT NULL
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE image_manifests (
        image TEXT PRIMARY KEY REFERENCES images (id) ON DELETE CASCADE,
        media_type TEXT NOT NULL,
        data BLOB NOT NULL
    ) STRICT, WITHOUT ROWID
    """,
    lineage.SCHEMA,
    indexes.SCHEMA,
    usage.SCHEMA,
)

RECEIVED_AT_ONCE: Final = 32
"""Uploads of images and of contexts; more of them wait for each other."""


class Lease:
    """What a pull, a push or a build relies on before an image does: not collected meanwhile."""

    def __init__(self) -> None:
        self.blobs: set[str] = set()
        self.chain_ids: set[str] = set()
        """With all below them."""


class ImageStore:
    """Records by id and name. All calls are direct; none waits for a disk beyond the database's log."""

    def __init__(self, database: Database, content: Content, snapshots: Snapshots, syncing: Syncing) -> None:
        self.database = database
        self.content = content
        self.snapshots = snapshots
        self.syncing = syncing
        """Of both, for whoever has recorded something in them."""
        self.receiving = ThreadPoolExecutor(RECEIVED_AT_ONCE, thread_name_prefix="proad-receive")
        """For calls that read what a client sends, as long as it likes. Threads come with the work."""
        self._images: dict[str, ImageRecord] = {}
        self._names: dict[str, str] = {}
        self._busy = 0
        self._leases: list[Lease] = []
        self._keepers: list[Callable[[], Iterable[str]]] = []
        self.lineage = lineage.Lineage(database)
        self.indexes = indexes.Indexes(database)
        self._orphans: dict[Reference, list[Reference]] = {}
        """By a name that is written and not published, those that are gone with its index."""
        self.usage = usage.Usage(database)
        self.grown: Callable[[], None] = _nobody
        """Told of every image that becomes known."""
        self._when_idle: list[Callable[[], None]] = []
        self._read()

    # ---- reads ----------------------------------------------------------------------------------

    def all(self) -> list[ImageRecord]:
        """Every image, newest first."""
        return sorted(self._images.values(), key=lambda image: -image.created_ns)

    def by_id(self, image_id: str) -> ImageRecord | None:
        return self._images.get(image_id)

    def references(self, image_id: str) -> list[Reference]:
        """Names of an image, sorted."""
        names = sorted(name for name, image in self._names.items() if image == image_id)
        return [parse_reference(name) for name in names]

    def is_intermediate(self, image_id: str) -> bool:
        """Without a name, and others were made from it."""
        return image_id not in self._names.values() and bool(self.lineage.children(image_id))

    def ancestors(self, image_id: str) -> list[ImageRecord]:
        """What it was made from, its parent first."""
        found: list[ImageRecord] = []
        parent = self.lineage.parent(image_id)
        while (record := self._images.get(parent)) is not None and record not in found:
            found.append(record)
            parent = self.lineage.parent(parent)
        return found

    def names_of_repository(self, name: str) -> list[tuple[Reference, str]]:
        """(reference, image id) of every name in a repository (its normalised name), sorted."""
        found = [(parse_reference(text), image) for text, image in sorted(self._names.items())]
        return [(reference, image) for reference, image in found if reference.name == name]

    def named(self, reference: Reference) -> ImageRecord | None:
        """By name alone: tag (default latest) or digest."""
        if reference.digest:
            reference = Reference(reference.domain, reference.path, "", reference.digest)
        image = self._names.get(reference.with_default_tag().canonical)
        return self._images[image] if image else None

    def find(self, ref: str) -> ImageRecord | None:
        """By what a user typed: id, name or unique prefix of an id, in Docker's order."""
        digits = id_prefix(ref)
        if len(digits) == 64:
            return self._images.get(f"sha256:{digits}")
        try:
            record = self.named(parse_reference(ref))
        except InvalidParameter:
            if not digits:
                raise
            record = None
        return record or self._by_prefix(digits)

    def resolve(self, ref: str) -> ImageRecord:
        """`find`, or NotFound in Docker's words."""
        record = self.find(ref)
        if record is None:
            raise NotFound(f"No such image: {shown(ref)}")
        return record

    def manifest(self, image_id: str) -> StoredManifest | None:
        """The manifest that an image was pulled by."""
        rows = self.database.query(
            "SELECT media_type, data FROM image_manifests WHERE image = ?", (image_id,)
        )
        return StoredManifest(*rows[0]) if rows else None

    def repositories_of(self, digest: str) -> list[Reference]:
        """Where a layer's blob was pulled from or pushed to, by the images that have a digest there."""
        rows = self.database.query(
            "SELECT DISTINCT name FROM image_names JOIN image_layers USING (image) WHERE digest = ?",
            (digest,),
        )
        names = sorted(
            {(found.domain, found.path) for (name,) in rows if (found := parse_reference(name)).digest}
        )
        return [Reference(domain, path) for domain, path in names]

    def tagged_ns(self, image_id: str) -> int:
        """When it was last tagged; 0 for never."""
        rows = self.database.query("SELECT max(tagged_ns) FROM image_names WHERE image = ?", (image_id,))
        return rows[0][0] or 0

    def layer_digests(self, chain_id: str) -> list[Digest]:
        """The blobs that images say a snapshot is unpacked from; usually one."""
        rows = self.database.query("SELECT DISTINCT digest FROM image_layers WHERE chain_id = ?", (chain_id,))
        return [Digest(digest) for (digest,) in rows]

    # ---- writes ---------------------------------------------------------------------------------

    def add(self, config_blob: bytes, file: ImageFile, content: Sequence[Layer]) -> ImageRecord:
        """Make an image known whose blobs and snapshots are recorded. Idempotent.

        For the caller's transaction; `publish` the record when that is committed.
        """
        image_id = Digest("sha256:" + sha256(config_blob).hexdigest())
        now = time.time_ns()
        self.database.execute(
            "INSERT INTO images VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET added_ns = excluded.added_ns",
            (image_id, config_blob, now),
        )
        for position, layer in enumerate(content):
            self.database.execute(
                "INSERT OR REPLACE INTO image_layers VALUES (?, ?, ?, ?, ?)",
                (image_id, position, layer.digest, layer.diff_id, layer.chain_id),
            )
        self.usage.touch(image_id)
        return self._record(image_id, config_blob, file, now, tuple(content))

    def keep_manifest(self, image_id: str, manifest: StoredManifest) -> None:
        """Remember what an image was pulled by. For the transaction of `add`."""
        self.database.execute(
            "INSERT OR REPLACE INTO image_manifests VALUES (?, ?, ?)",
            (image_id, manifest.media_type, manifest.data),
        )

    def drop_manifest(self, image_id: str) -> None:
        """The image is pushed by one that is made then. For the transaction of `add`."""
        self.database.execute("DELETE FROM image_manifests WHERE image = ?", (image_id,))

    def children(self, reference: Reference) -> list[tuple[Reference, ImageRecord]]:
        """The images that are here of the index that a name stands for; none where it means one image."""
        index = self.indexes.find(reference)
        names = indexes.children(reference, index) if index is not None else ()
        return [(name, record) for name in names if (record := self.named(name)) is not None]

    def recompressed(self, digest: str, instead: str) -> None:
        """Let images have another blob of the same layer; not those whose manifest says which one it is.

        The old blob is garbage once no such image is left.
        """
        self.database.execute(
            "UPDATE image_layers SET digest = ?"
            " WHERE digest = ? AND image NOT IN (SELECT image FROM image_manifests)",
            (instead, digest),
        )
        self._images.clear()
        self._read()

    def publish(self, record: ImageRecord) -> None:
        """Let reads see a record that is committed."""
        self._images[record.id] = record
        self.grown()

    def tag(self, reference: Reference, image_id: str) -> str:
        """Point a name at an image; returns the id of the one that lost it, if any."""
        self.write_name(reference, image_id)
        return self.publish_name(reference, image_id)

    def write_name(self, reference: Reference, image_id: str) -> None:
        """The database's half of `tag`, for the caller's transaction."""
        self.database.execute(
            "INSERT OR REPLACE INTO image_names VALUES (?, ?, ?)",
            (reference.canonical, image_id, time.time_ns()),
        )
        self.usage.touch(image_id)
        self._orphans[reference] = self._forget_index(reference)

    def publish_name(self, reference: Reference, image_id: str) -> str:
        """Let reads see a name that is committed; returns the id of the image that lost it, if any."""
        before = self._names.get(reference.canonical, "")
        self._names[reference.canonical] = image_id
        for name in self._orphans.pop(reference, ()):
            self._names.pop(name.canonical, None)
        return before if before != image_id else ""

    def untag(self, reference: Reference) -> None:
        """Take a name away. Missing: nothing to do."""
        self.database.execute("DELETE FROM image_names WHERE name = ?", (reference.canonical,))
        for name in (reference, *self._forget_index(reference)):
            self._names.pop(name.canonical, None)

    def _forget_index(self, reference: Reference) -> list[Reference]:
        """The name means one image; returns the names that its index's images have lost with that."""
        orphans = self.indexes.forget(reference)
        for name in orphans:
            self.database.execute("DELETE FROM image_names WHERE name = ?", (name.canonical,))
        return orphans

    def delete(self, image_id: str) -> None:
        """Forget an image and its names; `collect` what it leaves behind."""
        self.database.execute("DELETE FROM images WHERE id = ?", (image_id,))
        self._images.pop(image_id, None)
        self.lineage.forget(image_id)
        self.usage.forget(image_id)
        self._names = {name: image for name, image in self._names.items() if image != image_id}

    def hold(self, image_id: str, container_id: str) -> None:
        """A container stands on the image's layers until `release`. Idempotent. Raises NotFound."""
        record = self._images.get(image_id)
        if record is None:
            raise NotFound(f"No such image: {image_id}")
        self.database.execute(
            "INSERT OR REPLACE INTO image_users VALUES (?, ?, ?)", (container_id, image_id, record.chain_id)
        )
        self.usage.touch(image_id)

    def release(self, container_id: str) -> bool:
        """The container is gone; true where its image is gone, too, so that layers may be left behind."""
        # Images that it had mounted are held under its id and theirs.
        which = "WHERE container = ? OR container GLOB ? || '/*'"
        rows = self.database.query(f"SELECT image FROM image_users {which}", (container_id, container_id))
        if not rows:
            return False
        self.database.execute(f"DELETE FROM image_users {which}", (container_id, container_id))
        there = [image for (image,) in rows if image in self._images]
        for image in there:
            self.usage.touch(image)
        return len(there) < len(rows)

    # ---- collection -----------------------------------------------------------------------------

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Nothing is collected meanwhile: a load relies on blobs and snapshots that it found."""
        self._busy += 1
        try:
            yield
        finally:
            self._busy -= 1
            waiting, self._when_idle = self._when_idle, []
            for call in waiting:
                self.when_idle(call)

    @property
    def is_busy(self) -> bool:
        """Whether something relies on all that is here."""
        return self._busy > 0

    def when_idle(self, call: Callable[[], None]) -> None:
        """Call it now, or once nothing is busy; asked for twice meanwhile, once."""
        if not self._busy:
            call()
        elif call not in self._when_idle:
            self._when_idle.append(call)

    @contextmanager
    def lease(self) -> Iterator[Lease]:
        """Keep what is added to it until the block ends; everything else can be collected."""
        lease = Lease()
        self._leases.append(lease)
        try:
            yield lease
        finally:
            self._leases.remove(lease)

    def held_bytes(self) -> list[tuple[str, int]]:
        """(chain id, bytes unpacked) of every layer and (digest, bytes) of every blob that is here."""
        return self.database.query(
            "SELECT chain_id, size FROM snapshots UNION ALL SELECT digest, size FROM blobs"
        )

    def needed_by_images(self) -> set[str]:
        """Chain ids of layers that an image has."""
        return {id_ for (id_,) in self.database.query("SELECT DISTINCT chain_id FROM image_layers")}

    def keep(self, chain_ids: Callable[[], Iterable[str]]) -> None:
        """Ask this at every collection for more layers that are needed, with all below them."""
        self._keepers.append(chain_ids)

    def collect(self) -> tuple[list[str], list[Path], list[Path]]:
        """Forget what no image, container, lease or load needs.

        Returns chain ids gone (top first), snapshot directories to discard and files to unlink.
        """
        if self._busy:
            return [], [], []
        with self.database.transaction():
            chains = self._unneeded_chains()
            drafts = self.snapshots.forget(chains)
            unneeded = "SELECT digest FROM blobs WHERE digest NOT IN (SELECT digest FROM image_layers)"
            leased = set().union(*(lease.blobs for lease in self._leases))
            blobs = [digest for (digest,) in self.database.query(unneeded) if digest not in leased]
            self.content.forget(blobs)
        return chains, drafts, self.content.discard(blobs)

    def kept(self) -> set[str]:
        """Chain ids of layers that are kept whatever becomes of the images (the build cache's)."""
        return _with_those_below(self._asked_to_keep(), self._parents())

    def _asked_to_keep(self) -> set[str]:
        return set[str]().union(*(keeper() for keeper in self._keepers))

    def _parents(self) -> dict[str, str]:
        return {snapshot.chain_id: snapshot.parent for snapshot in self.snapshots.all()}

    def _unneeded_chains(self) -> list[str]:
        snapshots = self._parents()
        roots = self._asked_to_keep().union(*(lease.chain_ids for lease in self._leases))
        for table in ("image_layers", "image_users"):
            roots.update(id_ for (id_,) in self.database.query(f"SELECT DISTINCT chain_id FROM {table}"))
        needed = _with_those_below(roots, snapshots)
        depth: dict[str, int] = {"": 0}

        def depth_of(chain_id: str) -> int:
            path = []
            while chain_id not in depth:
                path.append(chain_id)
                chain_id = snapshots.get(chain_id, "")
            for above in reversed(path):
                depth[above] = depth[chain_id] + 1
                chain_id = above
            return depth[chain_id]

        return sorted(snapshots.keys() - needed, key=depth_of, reverse=True)

    # ---- inside ---------------------------------------------------------------------------------

    def _read(self) -> None:
        layers: dict[str, list[Layer]] = {}
        for image, digest, diff_id, chain_id in self.database.query(
            "SELECT image, digest, diff_id, chain_id FROM image_layers ORDER BY image, position"
        ):
            layers.setdefault(image, []).append(Layer(Digest(digest), Digest(diff_id), Digest(chain_id)))
        for image, blob, added_ns in self.database.query("SELECT id, config, added_ns FROM images"):
            file = decode_image_file(blob)
            content = tuple(layers.get(image, ()))
            self._images[image] = self._record(Digest(image), blob, file, added_ns, content)
        self._names = dict(self.database.query("SELECT name, image FROM image_names"))

    def _record(
        self, image_id: Digest, blob: bytes, file: ImageFile, added_ns: int, content: tuple[Layer, ...]
    ) -> ImageRecord:
        snapshots = [self.snapshots.find(layer.chain_id) for layer in content]
        return ImageRecord(
            id=image_id,
            config_blob=blob,
            file=file,
            config=file.config or ImageConfig(),
            added_ns=added_ns,
            content=content,
            sizes=tuple(snapshot.size if snapshot else 0 for snapshot in snapshots),
            layers=self.snapshots.lower(content[-1].chain_id) if content else (),
        )

    def _by_prefix(self, digits: str) -> ImageRecord | None:
        """Ambiguous ones find nothing, as Docker has it."""
        if not digits:
            return None
        found = [record for key, record in self._images.items() if key.startswith(f"sha256:{digits}")]
        return found[0] if len(found) == 1 else None


def _with_those_below(chain_ids: Iterable[str], parents: Mapping[str, str]) -> set[str]:
    found: set[str] = set()
    for chain_id in chain_ids:
        while chain_id and chain_id not in found:
            found.add(chain_id)
            chain_id = parents.get(chain_id, "")
    return found


def _nobody() -> None:
    pass


def shown(ref: str) -> str:
    """What Docker shows of a reference that was not found: the familiar form with a tag."""
    if len(id_prefix(ref)) == 64:
        return f"sha256:{id_prefix(ref)}"
    try:
        return parse_reference(ref).with_default_tag().familiar
    except InvalidParameter:
        return ref
