"""proa_native's mounts, written down."""

import errno
from collections.abc import Sequence


class FakeMounts:
    """What is mounted where; `fails` is the errno of the next mount."""

    def __init__(self, *, quota: bool = False) -> None:
        self.mounted: dict[str, tuple[str, str, tuple[str, ...], int]] = {}
        self.limits: dict[str, int] = {}
        self.fails = 0
        self._quota = quota

    def mount_filesystem(
        self, target: str, kind: str, source: str, options: Sequence[str], *, attributes: int = 0
    ) -> None:
        if self.fails:
            raise OSError(self.fails, f"mount {source} as {kind} (bad magic): Invalid argument")
        assert target not in self.mounted, "mounted twice"
        self.mounted[target] = (kind, source, tuple(options), attributes)

    def mount_bind(self, target: str, source: str, *, recursive: bool = False, attributes: int = 0) -> None:
        if self.fails:
            raise OSError(self.fails, f"bind source {source}: No such file or directory")
        assert target not in self.mounted, "mounted twice"
        self.mounted[target] = ("rbind" if recursive else "bind", source, (), attributes)

    def unmount(self, target: str) -> bool:
        return self.mounted.pop(target, None) is not None

    def is_mounted(self, target: str) -> bool:
        return target in self.mounted

    def has_project_quota(self, directory: str) -> bool:
        return self._quota

    def limit_directory(self, directory: str, size: int) -> None:
        if not self._quota:
            raise OSError(errno.ENOTSUP, "limit: Operation not supported")
        self.limits[directory] = size
