"""A registry of our own, as a server: repositories on the content store's blobs, over HTTP.

    names.py          what a repository, a tag and a digest may look like, before any becomes a path
    failures.py       the specification's error codes
    manifests.py      what a manifest refers to, and whether it may be stored
    repositories.py   links, manifests, tags: the database
    uploads.py        blobs on their way in
    blobs.py          blobs on their way out (sendfile, ranges)
    cache.py          the pull-through cache of an upstream
    collection.py     mark and sweep
    access.py         who may come in
    paths.py pulls.py pushes.py service.py    HTTP

Knows nothing of the engine or its API. Source: OCI distribution-spec 1.1.
"""
