"""One sample of a container's resource usage.

Source: the Docker Engine API, v1.51 (definitions of the same names).
"""

from msgspec import Struct, field


class ContainerBlkioStatEntry(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Blkio stats entry."""

    major: int = field(default=0, name="major")
    minor: int = field(default=0, name="minor")
    op: str = field(default="", name="op")
    value: int = field(default=0, name="value")


class ContainerBlkioStats(Struct, frozen=True, kw_only=True, rename="pascal"):
    """BlkioStats stores all IO service stats for data read and write."""

    io_service_bytes_recursive: list[ContainerBlkioStatEntry] | None = field(
        default=None, name="io_service_bytes_recursive"
    )
    io_serviced_recursive: list[ContainerBlkioStatEntry] | None = field(
        default=None, name="io_serviced_recursive"
    )
    io_queue_recursive: list[ContainerBlkioStatEntry] | None = field(default=None, name="io_queue_recursive")
    io_service_time_recursive: list[ContainerBlkioStatEntry] | None = field(
        default=None, name="io_service_time_recursive"
    )
    io_wait_time_recursive: list[ContainerBlkioStatEntry] | None = field(
        default=None, name="io_wait_time_recursive"
    )
    io_merged_recursive: list[ContainerBlkioStatEntry] | None = field(
        default=None, name="io_merged_recursive"
    )
    io_time_recursive: list[ContainerBlkioStatEntry] | None = field(default=None, name="io_time_recursive")
    sectors_recursive: list[ContainerBlkioStatEntry] | None = field(default=None, name="sectors_recursive")


class ContainerCPUUsage(Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """All CPU stats aggregated since container inception."""

    total_usage: int = field(default_factory=int, name="total_usage")
    percpu_usage: list[int] | None = field(default=None, name="percpu_usage")
    usage_in_kernelmode: int = field(default_factory=int, name="usage_in_kernelmode")
    usage_in_usermode: int = field(default_factory=int, name="usage_in_usermode")


class ContainerThrottlingData(Struct, frozen=True, kw_only=True, rename="pascal"):
    """CPU throttling stats of the container."""

    periods: int = field(default=0, name="periods")
    throttled_periods: int = field(default=0, name="throttled_periods")
    throttled_time: int = field(default=0, name="throttled_time")


class ContainerCPUStats(Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """CPU related info of the container."""

    cpu_usage: ContainerCPUUsage | None = field(default_factory=ContainerCPUUsage, name="cpu_usage")
    system_cpu_usage: int | None = field(default=None, name="system_cpu_usage")
    online_cpus: int | None = field(default=None, name="online_cpus")
    throttling_data: ContainerThrottlingData | None = field(
        default_factory=ContainerThrottlingData, name="throttling_data"
    )


class ContainerPidsStats(Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """PidsStats contains Linux-specific stats of a container's process-IDs (PIDs)."""

    current: int | None = field(default=None, name="current")
    limit: int | None = field(default=None, name="limit")


class ContainerMemoryStats(Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """Aggregates all memory stats since container inception on Linux. Windows returns stats for
    commit and private working set only.
    """

    usage: int | None = field(default=None, name="usage")
    max_usage: int | None = field(default=None, name="max_usage")
    stats: dict[str, int | None] | None = field(default=None, name="stats")
    failcnt: int | None = field(default=None, name="failcnt")
    limit: int | None = field(default=None, name="limit")
    commitbytes: int | None = field(default=None, name="commitbytes")
    commitpeakbytes: int | None = field(default=None, name="commitpeakbytes")
    privateworkingset: int | None = field(default=None, name="privateworkingset")


class ContainerNetworkStats(Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """Aggregates the network stats of one container."""

    rx_bytes: int = field(default_factory=int, name="rx_bytes")
    rx_packets: int = field(default_factory=int, name="rx_packets")
    rx_errors: int = field(default_factory=int, name="rx_errors")
    rx_dropped: int = field(default_factory=int, name="rx_dropped")
    tx_bytes: int = field(default_factory=int, name="tx_bytes")
    tx_packets: int = field(default_factory=int, name="tx_packets")
    tx_errors: int = field(default_factory=int, name="tx_errors")
    tx_dropped: int = field(default_factory=int, name="tx_dropped")
    endpoint_id: str | None = field(default=None, name="endpoint_id")
    instance_id: str | None = field(default=None, name="instance_id")


class ContainerStorageStats(Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """StorageStats is the disk I/O stats for read/write on Windows."""

    read_count_normalized: int | None = field(default=None, name="read_count_normalized")
    read_size_bytes: int | None = field(default=None, name="read_size_bytes")
    write_count_normalized: int | None = field(default=None, name="write_count_normalized")
    write_size_bytes: int | None = field(default=None, name="write_size_bytes")


class ContainerStatsResponse(Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """Statistics sample for a container."""

    name: str | None = field(default=None, name="name")
    id: str | None = field(default=None, name="id")
    read: str = field(default_factory=str, name="read")
    preread: str = field(default_factory=str, name="preread")
    pids_stats: ContainerPidsStats | None = field(default_factory=ContainerPidsStats, name="pids_stats")
    blkio_stats: ContainerBlkioStats | None = field(default_factory=ContainerBlkioStats, name="blkio_stats")
    num_procs: int = field(default_factory=int, name="num_procs")
    storage_stats: ContainerStorageStats | None = field(
        default_factory=ContainerStorageStats, name="storage_stats"
    )
    cpu_stats: ContainerCPUStats | None = field(default_factory=ContainerCPUStats, name="cpu_stats")
    precpu_stats: ContainerCPUStats | None = field(default_factory=ContainerCPUStats, name="precpu_stats")
    memory_stats: ContainerMemoryStats | None = field(
        default_factory=ContainerMemoryStats, name="memory_stats"
    )
    networks: dict[str, ContainerNetworkStats | None] | None = field(default=None, name="networks")
