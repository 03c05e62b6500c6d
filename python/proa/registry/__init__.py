"""Registries, as a client: manifests and blobs by name, pushes, tags, logins, search.

    registry = Registry(RegistrySettings.of(config))
    manifest = await registry.resolve(reference, credentials)        a manifest or an index, verified
    child = await registry.manifest(reference, digest, credentials)  of an index
    async with registry.blob(reference, descriptor, credentials, offset=0) as chunks: ...
    await registry.upload_blob(reference, descriptor, source, credentials)
    await registry.put_manifest(reference, media_type, data, credentials)

Mirrors, plain HTTP, certificates, proxies, tokens, retries and redirects are hidden here. Nothing of it is
opened or imported before the first call. Errors are classes of proa.errors in Docker's words; a blob's body
that ends early is `Interrupted`, and the caller goes on from its own offset.

Source: OCI distribution-spec 1.1; distribution's token authentication; Docker's registry and daemon.json
documentation; containerd's hosts.toml.
"""

from proa.registry.client import Registry
from proa.registry.model import BlobSource, Interrupted, Manifest, Remote
from proa.registry.settings import RegistrySettings

__all__ = ["BlobSource", "Interrupted", "Manifest", "Registry", "RegistrySettings", "Remote"]
