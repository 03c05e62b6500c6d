"""docker rmi and image prune: what may go, what only loses a name, and in whose words it is refused.

Source: moby daemon/images/image_delete.go and image_prune.go.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from proa.engine.images import filters as image_filters
from proa.engine.images.disposal import Disposal
from proa.engine.images.records import ImageRecord, is_id_of
from proa.engine.images.store import ImageStore
from proa.engine.ports import ContainersOfImages, EventSink
from proa.errors import Conflict
from proa.schema.image import ImageDeleteResponseItem
from proa.schema.prune import ImagesPruneReport
from proa.schema.reference import Reference, parse_reference


def short(id_: str) -> str:
    """An id as Docker shows it."""
    return id_.removeprefix("sha256:")[:12]


class Remover:
    """Untags and deletes images."""

    def __init__(
        self,
        store: ImageStore,
        events: EventSink,
        containers: ContainersOfImages,
        disposal: Disposal,
    ) -> None:
        self._store = store
        self._events = events
        self._containers = containers
        self._disposal = disposal

    async def remove(self, ref: str, *, force: bool, prune: bool) -> list[ImageDeleteResponseItem]:
        """Untag what was named; delete the image with its last name. Raises NotFound, Conflict.

        `prune`: with it go the images it was made from that nothing else needs.
        """
        record = self._store.resolve(ref)
        names = self._store.references(record.id)
        items: list[ImageDeleteResponseItem] = []
        if not is_id_of(record, ref):
            if not force and is_single(names):
                self._refuse_last_name(record, ref)
            named = self._named(ref)
            others = [child for _, child in self._store.children(named) if child.id != record.id]
            items += self._untag(record, [named])
            for other in others:
                items += self._let_go(other)
            same = [name for name in self._store.references(record.id) if name.name == named.name]
            if named.tag and not any(name.tag for name in same):
                items += self._untag(record, same)
            if self._store.references(record.id):
                return items
            if self._conflict(record, force=force):
                return items  # It was only named: what still needs the image keeps it, without a name.
        else:
            single = is_single(names)
            conflict = self._conflict(record, force=force)
            if conflict is None and not single and not force:
                conflict = "(must be forced) - image is referenced in multiple repositories"
            if conflict:
                raise Conflict(f"conflict: unable to delete {short(record.id)} {conflict}")
        items += self._untag(record, self._store.references(record.id))
        return items + self._delete(record, prune=prune)

    async def prune(self, filters: Mapping[str, Sequence[str]]) -> ImagesPruneReport:
        """Delete images without a name, or with `dangling=false` all that no container is made from.

        What broken downloads left goes, too.
        """
        image_filters.check_keys(filters, image_filters.PRUNE_FILTERS)
        dangling = image_filters.boolean(filters, "dangling") is not False
        tests = image_filters.tests(self._store, filters)
        items: list[ImageDeleteResponseItem] = []
        before = self._blob_bytes()
        for record in self._store.all():
            names = self._store.references(record.id)
            unwanted = not names if dangling else True
            if not unwanted or not all(test(record, names) for test in tests):
                continue
            if self._store.is_intermediate(record.id) or self._store.by_id(record.id) is None:
                continue
            if self._containers.using_image(record.id):
                continue
            items += self._untag(record, names)
            if not self._store.lineage.children(record.id):
                items += self._delete(record, prune=True)
        partials = self._store.content.expired(seconds=0)
        reclaimed = before - self._blob_bytes() + sum(path.stat().st_size for path in partials)
        self.collect(partials)
        self._events.emit("image", "prune", "", {"reclaimed": str(reclaimed)})
        return ImagesPruneReport(images_deleted=items or None, space_reclaimed=reclaimed)

    def evict(self, record: ImageRecord) -> list[ImageDeleteResponseItem]:
        """Delete an image with all its names, nothing it was made from; the caller knows that it may."""
        return self._untag(record, self._store.references(record.id)) + self._delete(record, prune=False)

    def collect(self, garbage: Sequence[Path] = ()) -> list[str]:
        """Drop what nothing needs any more, and `garbage`; returns the chain ids that went, top first.

        It is out of the way at once; the disk is given back in the background.
        """
        chains, drafts, files = self._store.collect()
        trees = [aside for draft in drafts if (aside := self._store.snapshots.put_aside(draft)) is not None]
        self._disposal.add([*garbage, *files, *self._store.content.expired(), *trees])
        return chains

    def _named(self, ref: str) -> Reference:
        reference = parse_reference(ref)
        if reference.digest:
            return Reference(reference.domain, reference.path, "", reference.digest)
        return reference.with_default_tag()

    def _let_go(self, record: ImageRecord) -> list[ImageDeleteResponseItem]:
        """Delete an image of an index that is gone, unless something else has it."""
        if self._store.by_id(record.id) is None or self._is_needed(record):
            return []
        return self._delete(record, prune=False)

    def _untag(self, record: ImageRecord, names: Sequence[Reference]) -> list[ImageDeleteResponseItem]:
        items = []
        for name in names:
            self._store.untag(name)
            self._events.emit("image", "untag", record.id, {"name": record.id})
            items.append(ImageDeleteResponseItem(untagged=name.familiar))
        return items

    def _delete(self, record: ImageRecord, *, prune: bool) -> list[ImageDeleteResponseItem]:
        deleted: list[ImageRecord] = []
        for image in [record, *(self._store.ancestors(record.id) if prune else ())]:
            if image is not record and self._is_needed(image):
                break
            self._store.delete(image.id)
            self._events.emit("image", "delete", image.id, {"name": image.id})
            deleted.append(image)
        gone = self.collect()
        lowest: dict[str, str] = {layer.chain_id: image.id for image in deleted for layer in image.content}
        ids: list[str] = []
        for image in deleted:
            ids += [image.id, *(chain_id for chain_id in gone if lowest.get(chain_id) == image.id)]
        return [ImageDeleteResponseItem(deleted=id_) for id_ in ids]

    def _is_needed(self, ancestor: ImageRecord) -> bool:
        named = bool(self._store.references(ancestor.id))
        return named or self._conflict(ancestor, force=False) is not None

    def _refuse_last_name(self, record: ImageRecord, ref: str) -> None:
        for container, _ in self._containers.using_image(record.id):
            raise Conflict(
                f'conflict: unable to remove repository reference "{ref}" (must force) - container '
                f"{short(container)} is using its referenced image {short(record.id)}"
            )

    def _conflict(self, record: ImageRecord, *, force: bool) -> str | None:
        """Why the image cannot be deleted, as the end of Docker's sentence."""
        if self._store.lineage.children(record.id):
            return "(cannot be forced) - image has dependent child images"
        users = self._containers.using_image(record.id)
        for container, running in users:
            if running:
                return f"(cannot be forced) - image is being used by running container {short(container)}"
        for container, _ in users:
            if not force:
                return f"(must be forced) - image is being used by stopped container {short(container)}"
        return None

    def _blob_bytes(self) -> int:
        """Bytes of all layers unpacked: what a prune is measured by."""
        return self._store.snapshots.size()


def is_single(names: Sequence[Reference]) -> bool:
    """At most one tag, all names in one repository."""
    if len(names) <= 1:
        return True
    return sum(1 for name in names if name.tag) <= 1 and len({name.name for name in names}) == 1
