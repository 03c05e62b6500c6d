"""The manifests of an image, for lists and inspect that ask for them: platforms, sizes, who uses them.

An image has one, a name that stands for several platforms one for each, whether that is here or not. Sizes
are of what is here: blobs as they would go to a registry, and files unpacked. One that is not packed yet has
no manifest: it is shown under its own id, with nothing but its config to go anywhere.

Source: the Docker Engine API v1.51 (ImageManifestSummary); moby daemon/containerd/image_list.go.
"""

from collections.abc import Sequence
from typing import Final

from proa.content import digest_of
from proa.engine.images.indexes import child_name, descriptors
from proa.engine.images.records import ImageRecord
from proa.engine.images.saving import manifest_of
from proa.engine.images.store import ImageStore
from proa.engine.ports import ContainersOfImages
from proa.schema.container_state import OCIDescriptor, OCIPlatform
from proa.schema.image import (
    AttestationManifestData,
    ImageManifestData,
    ImageManifestSize,
    ImageManifestSummary,
    ImageUnpackedSize,
)
from proa.schema.oci import CONFIG, INDEX, MANIFEST, Descriptor, Platform
from proa.schema.reference import Reference

_KIND: Final = "vnd.docker.reference.type"
_FOR: Final = "vnd.docker.reference.digest"


class Manifests:
    """What is known of images' manifests. Every call is direct."""

    def __init__(self, store: ImageStore, containers: ContainersOfImages) -> None:
        self._store = store
        self._containers = containers

    def of(
        self, record: ImageRecord, names: Sequence[Reference]
    ) -> tuple[OCIDescriptor, list[ImageManifestSummary]]:
        """What the image's names mean, an index or one manifest, and every manifest of that."""
        for name in names:
            index = self._store.indexes.find(name)
            if index is not None:
                whole = OCIDescriptor(media_type=INDEX, digest=digest_of(index), size=len(index))
                return whole, [self._named(name, descriptor) for descriptor in descriptors(index)]
        descriptor = self._descriptor(record)
        return descriptor, [self._image(record, descriptor)]

    def _named(self, name: Reference, descriptor: Descriptor) -> ImageManifestSummary:
        """One of an index."""
        shown = OCIDescriptor(
            media_type=descriptor.media_type,
            digest=descriptor.digest,
            size=descriptor.size,
            annotations=descriptor.annotations,
            platform=_platform(descriptor.platform) if descriptor.platform else None,
        )
        annotations = descriptor.annotations or {}
        if annotations.get(_KIND) == "attestation-manifest":
            data = AttestationManifestData(for_=annotations.get(_FOR, ""))
            return ImageManifestSummary(
                id=descriptor.digest, descriptor=shown, kind="attestation", attestation_data=data
            )
        record = self._store.named(child_name(name, descriptor))
        if record is not None:
            return self._image(record, shown)
        return ImageManifestSummary(
            id=descriptor.digest,
            descriptor=shown,
            kind="image",
            image_data=ImageManifestData(platform=shown.platform or OCIPlatform()),
        )

    def _image(self, record: ImageRecord, descriptor: OCIDescriptor) -> ImageManifestSummary:
        content = descriptor.size if descriptor.media_type != CONFIG else 0
        content += len(record.config_blob)
        content += sum(self._blobs(record).values())
        platform = OCIPlatform(
            architecture=record.architecture,
            os=record.os,
            os_version=record.file.os_version,
            variant=record.variant,
        )
        users = [container for container, _ in self._containers.using_image(record.id)]
        return ImageManifestSummary(
            id=descriptor.digest,
            descriptor=descriptor,
            available=True,
            size=ImageManifestSize(content=content, total=content + record.size),
            kind="image",
            image_data=ImageManifestData(
                platform=descriptor.platform or platform,
                containers=users,
                size=ImageUnpackedSize(unpacked=record.size),
            ),
        )

    def _blobs(self, record: ImageRecord) -> dict[str, int]:
        """The layers' blobs that are here, with their sizes."""
        found = {layer.digest: self._store.content.find(layer.digest) for layer in record.content}
        return {digest: known[0] for digest, known in found.items() if known is not None}

    def _descriptor(self, record: ImageRecord) -> OCIDescriptor:
        kept = self._store.manifest(record.id)
        if kept is not None:
            return OCIDescriptor(media_type=kept.media_type, digest=digest_of(kept.data), size=len(kept.data))
        if self._blobs(record).keys() == {layer.digest for layer in record.content}:
            data = manifest_of(self._store, record)
            return OCIDescriptor(media_type=MANIFEST, digest=digest_of(data), size=len(data))
        return OCIDescriptor(media_type=CONFIG, digest=record.id, size=len(record.config_blob))


def _platform(platform: Platform) -> OCIPlatform:
    return OCIPlatform(
        architecture=platform.architecture,
        os=platform.os,
        os_version=platform.os_version,
        os_features=platform.os_features,
        variant=platform.variant,
    )
