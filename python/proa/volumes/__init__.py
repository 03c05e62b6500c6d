"""Volumes: their records and directories, what the local driver mounts, and drivers that are plugins.

store.py     records and mounts in the database, directories under <data_root>/volumes
local.py     the local driver's options, and what they make it mount
plugins.py   other drivers, over Docker's plugin protocol
"""

from proa.volumes.local import LocalMounts, NativeMounts, check_options
from proa.volumes.plugins import Plugins, PluginVolume
from proa.volumes.store import (
    ANONYMOUS_LABEL,
    DRIVER,
    SCHEMA,
    VolumeRecord,
    VolumeStore,
    check_name,
)

__all__ = [
    "ANONYMOUS_LABEL",
    "DRIVER",
    "SCHEMA",
    "LocalMounts",
    "NativeMounts",
    "PluginVolume",
    "Plugins",
    "VolumeRecord",
    "VolumeStore",
    "check_name",
    "check_options",
]
