"""The local volume driver: directories under <data_root>/volumes/<name>/_data.

    store = VolumeStore(connection, root)
    store.path(name)                                where a volume has its data, existing or not
    store.create(name, ...) / get / list / remove   records; `references` tells who uses one
    store.acquire(container_id, names) / release(container_id)
    await store.copy_up(name, layers, target)       once, at a volume's first mount, from the image

Must not know images or containers: users are opaque ids.
"""
