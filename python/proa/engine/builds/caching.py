"""The caches that a build names: what comes from them before it, what goes to them after it.

Source: BuildKit's documentation, "Cache storage backends", for the fields and their words.
"""

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from typing import Any, Final

from proa.build import graph
from proa.build.cache import Cache
from proa.build.solver import Solution
from proa.engine.builds.blobs import Compression
from proa.engine.builds.exporting import CacheExporter, CacheTarget
from proa.engine.builds.history import claims
from proa.engine.builds.importing import CacheImports, offers_of_image, read_offers
from proa.engine.builds.lines import Reporter
from proa.engine.builds.places import Directory, Place, Repository
from proa.engine.images import Images
from proa.errors import InvalidParameter, NotImplemented_, ProaError
from proa.schema.build import BuildOptions
from proa.schema.oci import Platform
from proa.schema.reference import Reference, parse_reference
from proa.schema.registry import Credentials

INLINE_ARGUMENT: Final = "BUILDKIT_INLINE_CACHE"
_COMPRESSIONS: Final = ("gzip", "zstd", "uncompressed")

Fields = Mapping[str, str]


class Caches:
    """Caches elsewhere, of builds of one daemon."""

    def __init__(
        self, *, images: Images, cache: Cache, exporter: CacheExporter, executor: Executor | None
    ) -> None:
        self._images = images
        self._cache = cache
        self._exporter = exporter
        self._executor = executor

    async def imports(
        self,
        options: BuildOptions,
        plans: Sequence[graph.Graph],
        credentials: Mapping[str, Credentials],
        stores: Mapping[str, Place],
        reporter: Reporter,
    ) -> CacheImports:
        """What the build may take over; a cache that cannot be read is told, and no failure.

        `stores` are the places that the client itself has.
        """
        imports = CacheImports(self._images.store, self._cache, self._executor, reporter.warned)
        for name in options.cache_from:
            self._add_image(imports, plans[0], name)
        for number, fields in enumerate(options.local.cache_from):
            where = fields.get("ref") or fields.get("src") or fields.get("store", "")
            try:
                with reporter.task(f"cache-from {number}", f"importing cache manifest from {where}"):
                    for wanted in plans:
                        await self._add(imports, fields, credentials, stores, wanted.outcome.platform)
            except InvalidParameter:
                raise
            except ProaError:
                continue  # It was told.
        return imports

    def _add_image(self, imports: CacheImports, wanted: graph.Graph, name: str) -> None:
        """An image of the store; one that is not there is passed over, as the classic builder does."""
        record = self._images.store.find(name)
        if record is not None:
            imports.add(offers_of_image(record), None)
            imports.claim(claims(wanted, record))

    async def _add(
        self,
        imports: CacheImports,
        fields: Fields,
        credentials: Mapping[str, Credentials],
        stores: Mapping[str, Place],
        platform: Platform,
    ) -> None:
        kind = fields.get("type", "registry")
        if kind == "registry" and (record := self._images.store.named(_reference(fields))) is not None:
            offers = offers_of_image(record)
            if offers:
                imports.add(offers, None)
                return
        place = stores.get(fields.get("store", "")) or self._place(
            kind, "importer", fields, fields.get("src", ""), credentials
        )
        imports.add(await read_offers(place, platform), place)

    # ---- after the build ------------------------------------------------------------------------

    def targets(
        self,
        options: BuildOptions,
        credentials: Mapping[str, Credentials],
        stores: Mapping[str, Place],
    ) -> list[tuple[Fields, CacheTarget]]:
        """Where the cache goes, but for the image itself. Raises InvalidParameter."""
        found: list[tuple[Fields, CacheTarget]] = []
        for fields in options.local.cache_to:
            kind = fields.get("type", "registry")
            if kind == "inline":
                continue
            mode = fields.get("mode", "min")
            if mode not in ("min", "max"):
                raise InvalidParameter(f"unsupported cache export mode: {mode}")
            place = stores.get(fields.get("store", "")) or self._place(
                kind, "exporter", fields, fields.get("dest", ""), credentials
            )
            target = CacheTarget(
                place=place,
                every=mode == "max",
                as_manifest=fields.get("image-manifest", "true") != "false",
                compression=compression_of(fields),
            )
            found.append((fields, target))
        return found

    async def export(
        self, targets: Sequence[tuple[Fields, CacheTarget]], solutions: Sequence[Solution], reporter: Reporter
    ) -> None:
        """Write the caches. One that fails is the build's failure, unless it was given ignore-error."""
        for number, (fields, target) in enumerate(targets):
            kind = fields.get("type", "registry")
            title = f"exporting cache to {'client directory' if kind == 'local' else kind}"
            try:
                with reporter.task(f"cache-to {number}", title):
                    await self._exporter.export(target, solutions)
            except ProaError:
                if fields.get("ignore-error") != "true":
                    raise

    def _place(
        self, kind: str, role: str, fields: Fields, directory: str, credentials: Mapping[str, Credentials]
    ) -> Place:
        if kind == "registry":
            reference = _reference(fields)
            return Repository(self._images.registry, reference, credentials.get(reference.domain))
        if kind == "local":
            if not directory.startswith("/"):
                raise InvalidParameter(f"local cache {role} requires {'src' if role[0] == 'i' else 'dest'}")
            return Directory(directory, fields.get("tag", ""), fields.get("digest", ""), self._run)
        raise NotImplemented_(f'unknown cache {role}: "{kind}"')

    def _run(self, call: Any, *arguments: Any) -> Any:
        return asyncio.get_running_loop().run_in_executor(self._executor, call, *arguments)


def wants_inline(options: BuildOptions) -> bool:
    """Whether the image itself is to have its cache.

    Whoever names a cache to the classic builder counts on the image to be one for the next build, as there.
    """
    return (
        options.arguments.get(INLINE_ARGUMENT) == "1"
        or bool(options.cache_from)
        or any(fields.get("type") == "inline" for fields in options.local.cache_to)
    )


def compression_of(fields: Fields) -> Compression:
    """compression, compression-level, force-compression of a cache or output. Raises InvalidParameter."""
    kind = fields.get("compression", "") or "gzip"
    if kind not in _COMPRESSIONS:
        raise InvalidParameter(f"unsupported compression type {kind}")
    level = fields.get("compression-level", "")
    if level and not level.isdigit():
        raise InvalidParameter(f"non-integer value {level} specified for compression-level")
    return Compression(
        kind=kind,
        level=int(level) if level else None,
        force=fields.get("force-compression", "").lower() in ("true", "1"),
    )


def _reference(fields: Fields) -> Reference:
    if not fields.get("ref"):
        raise InvalidParameter("registry cache requires ref")
    return parse_reference(fields["ref"]).with_default_tag()
