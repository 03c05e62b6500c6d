"""proa/hello on demand: the image that the package carries, put into the store when it is first asked for.

Direct, not in the executor: one layer with one small file takes a few milliseconds, once.
"""

import proa_native

from proa.content import digest_of
from proa.engine.images.intake import unpack
from proa.engine.images.records import ImageRecord, Layer, decode_image_file, host_architecture
from proa.engine.images.store import ImageStore
from proa.hello import HELLO_NAME, hello_config, hello_layer
from proa.schema.reference import parse_reference


def install_hello(store: ImageStore) -> ImageRecord:
    """Make proa/hello:latest known. Raises NotImplemented_ on an architecture that it is not made for."""
    architecture, _ = host_architecture()
    config, data = hello_config(architecture), hello_layer(architecture)
    digest = digest_of(data)
    draft = store.snapshots.draft()
    try:
        with store.content.scratch() as scratch:
            blob = scratch / "layer"
            blob.write_bytes(data)
            layer = unpack(blob, draft)
            store.content.place(blob, digest)
        with store.database.transaction():
            store.content.record(digest, len(data), digest)
            store.snapshots.record(draft, digest, "", size=layer.size, inodes=layer.inodes)
            record = store.add(config, decode_image_file(config), [Layer(digest, digest, digest)])
            store.tag(parse_reference(HELLO_NAME), record.id)
    finally:
        if not store.snapshots.is_committed(draft):
            proa_native.remove_tree(str(draft.parent))
    store.publish(record)
    return record
