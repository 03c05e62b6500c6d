"""Memory, cpu, pids, blkio, ulimits, oom score; and updates of them."""

from collections.abc import Iterator
from typing import get_type_hints

import msgspec
import pytest
from resolving import HOST, context, resolved, with_host

from proa.engine.resolve import resolve_update
from proa.engine.resolve.limits import parse_cpuset
from proa.errors import Conflict, InvalidParameter
from proa.schema.config import DaemonConfig
from proa.schema.container import ContainerUpdateRequest, HostConfig, RestartPolicy, Ulimit
from proa.schema.plan import Rlimit

MB = 1 << 20


def resources(**options: object):
    return with_host(**options).plan.cgroup.resources


def test_swap_is_twice_the_memory() -> None:
    found = with_host(memory=64 * MB)
    assert found.plan.cgroup.resources.memory_limit == 64 * MB
    assert found.host_config.memory_swap == 128 * MB


def test_cpus_become_a_quota() -> None:
    found = resources(nano_cpus=500_000_000)
    assert (found.cpu_quota, found.cpu_period) == (50_000, 100_000)


@pytest.mark.parametrize(("shares", "expected"), [(1, 2), (512, 512), (10**6, 262144), (0, None)])
def test_shares_are_bounded(shares: int, expected: int | None) -> None:
    assert resources(cpu_shares=shares).cpu_shares == expected


@pytest.mark.parametrize(("limit", "expected"), [(None, None), (0, None), (-1, None), (33, 33)])
def test_pids(limit: int | None, expected: int | None) -> None:
    assert resources(pids_limit=limit).pids_limit == expected


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"memory": 5 * MB}, "^Minimum memory limit allowed is 6MB$"),
        (
            {"memory": 64 * MB, "memory_swap": 32 * MB},
            "Minimum memoryswap limit should be larger than memory limit",
        ),
        ({"memory_swap": 64 * MB}, "You should always set the Memory limit when using Memoryswap limit"),
        ({"memory_reservation": 1}, "Minimum memory reservation allowed is 6MB"),
        ({"memory": 10 * MB, "memory_reservation": 20 * MB}, "can not be less than memory reservation limit"),
        ({"memory_swappiness": 101}, "Invalid value: 101, valid memory swappiness range is 0-100"),
        ({"nano_cpus": 10**9, "cpu_period": 5000}, "Nano CPUs and CPU Period cannot both be set"),
        ({"nano_cpus": 10**9, "cpu_quota": 5000}, "Nano CPUs and CPU Quota cannot both be set"),
        (
            {"nano_cpus": 3 * 10**9},
            r"^range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available$",
        ),
        ({"nano_cpus": -1}, "range of CPUs is from 0.01 to 2.00"),
        ({"cpu_period": 999}, "CPU cfs period can not be less than 1ms"),
        ({"cpu_quota": 999}, "CPU cfs quota can not be less than 1ms"),
        ({"cpuset_cpus": "0-5"}, "Requested CPUs are not available - requested 0-5, available: 0-1"),
        ({"cpuset_mems": "7"}, "Requested memory nodes are not available - requested 7, available: 0"),
        ({"cpuset_cpus": "x"}, "Invalid value x for cpuset cpus: invalid format: x"),
        ({"blkio_weight": 5}, "Range of blkio weight is from 10 to 1000"),
        ({"oom_score_adj": 1001}, r"Invalid value 1001, range for oom score adj is \[-1000, 1000\]"),
        ({"shm_size": -1}, "SHM size can not be less than 0"),
        ({"ulimits": [Ulimit(name="odd", soft=1, hard=1)]}, "invalid ulimit type: odd"),
        (
            {"ulimits": [Ulimit(name="nofile", soft=2, hard=1)]},
            "ulimit soft limit must be less than or equal to hard limit: 2 > 1",
        ),
        ({"io_maximum_bandwidth": 1}, "linux does not support Maximum IO Bandwidth"),
    ],
)
def test_what_is_refused(options: dict[str, object], text: str) -> None:
    with pytest.raises(InvalidParameter, match=text):
        with_host(**options)


@pytest.mark.parametrize("text", ["0", "0-3", "0,2-3", "1,"])
def test_cpuset_syntax(text: str) -> None:
    assert parse_cpuset(text)


@pytest.mark.parametrize("text", ["3-1", "a", "-1", "0-99999999", "1--2"])
def test_cpuset_syntax_that_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        parse_cpuset(text)


def test_a_host_without_swap_accounting() -> None:
    within = context(host=msgspec.structs.replace(HOST, swap_accounting=False))
    quiet = resolved(HostConfig(memory=64 * MB), within=within)
    assert (quiet.host_config.memory_swap, quiet.warnings) == (-1, ())
    asked = resolved(HostConfig(memory=64 * MB, memory_swap=128 * MB), within=within)
    assert "does not support swap limit" in asked.warnings[0]


def test_cgroup_v2_knows_no_swappiness_and_no_oom_kill_disable() -> None:
    within = context(host=msgspec.structs.replace(HOST, cgroup_version="2"))
    found = resolved(HostConfig(memory_swappiness=10, oom_kill_disable=True), within=within)
    assert (found.host_config.memory_swappiness, found.host_config.oom_kill_disable) == (None, None)
    assert len(found.warnings) == 2


def test_nofile_is_bounded_by_the_host() -> None:
    assert with_host().plan.process.rlimits == (Rlimit(resource=7, soft=1024, hard=20000),)
    assert with_host().warnings == ()
    asked = with_host(ulimits=[Ulimit(name="nofile", soft=30000, hard=40000)])
    assert asked.plan.process.rlimits == (Rlimit(resource=7, soft=20000, hard=20000),)
    assert asked.warnings == ("This host does not allow nofile=40000. Limited to 20000.",)


def test_unlimited_and_the_daemons_defaults() -> None:
    config = DaemonConfig(default_ulimits={"core": {"Name": "core", "Soft": 0, "Hard": -1}})
    found = resolved(within=context(config=config))
    assert found.host_config.ulimits == [Ulimit(name="core", soft=0, hard=-1)]
    assert found.plan.process.rlimits[0] == Rlimit(resource=4, soft=0, hard=(1 << 64) - 1)


@pytest.mark.parametrize(("wanted", "expected", "warned"), [(300, 300, 0), (0, None, 0), (-500, None, 1)])
def test_oom_score(wanted: int, expected: int | None, warned: int) -> None:
    found = with_host(oom_score_adj=wanted)
    assert found.plan.process.oom_score_adj == expected
    assert len(found.warnings) == warned


def test_a_daemon_that_the_kernel_spares_does_not_hand_that_on() -> None:
    within = context(host=msgspec.structs.replace(HOST, oom_score_adj=-500, may_raise_rlimits=True))
    assert resolved(within=within).plan.process.oom_score_adj == 0


# ---- update -------------------------------------------------------------------------------------


def update(current: HostConfig, **changes: object):
    return resolve_update(ContainerUpdateRequest(**changes), resolved(current), HOST)  # type: ignore[arg-type]


def test_update_changes_what_was_asked_and_keeps_the_rest() -> None:
    found = update(HostConfig(memory=64 * MB, cpu_shares=512), memory=32 * MB, memory_swap=-1)
    assert (found.host_config.memory, found.host_config.memory_swap) == (32 * MB, -1)
    assert (found.resources.memory_limit, found.resources.memory_swap) == (32 * MB, -1)
    assert found.resources.cpu_shares == 512
    assert found.resources.devices == ()
    assert found.plan.cgroup.resources.devices


@pytest.mark.parametrize(
    ("current", "changes", "text"),
    [
        (
            HostConfig(memory=64 * MB),
            {"memory": 256 * MB},
            "Memory limit should be smaller than already set memoryswap",
        ),
        (HostConfig(memory=64 * MB), {"memory_swap": 32 * MB}, "Minimum memoryswap limit should be larger"),
        (
            HostConfig(nano_cpus=10**9),
            {"cpu_quota": 5000},
            "CPU Quota cannot be updated as NanoCPUs has already",
        ),
        (
            HostConfig(cpu_period=5000),
            {"nano_cpus": 10**9},
            "Nano CPUs cannot be updated as CPU Period has already",
        ),
        (HostConfig(), {"memory": 1}, "Minimum memory limit allowed is 6MB"),
        (HostConfig(), {"restart_policy": RestartPolicy(name="odd")}, "unknown policy 'odd'"),
    ],
)
def test_updates_that_are_refused(current: HostConfig, changes: dict[str, object], text: str) -> None:
    with pytest.raises(InvalidParameter, match=text):
        update(current, **changes)


def test_no_restart_of_what_is_removed() -> None:
    with pytest.raises(Conflict, match="Restart policy cannot be updated because AutoRemove is enabled"):
        update(HostConfig(auto_remove=True), restart_policy=RestartPolicy(name="always"))


WIDEST = (-(1 << 63), -1, 0, 1, 1 << 31, 1 << 32, (1 << 63) - 1)
NUMBERS = [name for name, kind in get_type_hints(HostConfig).items() if kind in (int, int | None)]


@pytest.mark.parametrize("field", NUMBERS)
@pytest.mark.parametrize("value", WIDEST)
def test_a_number_is_refused_or_fits_into_the_plan(field: str, value: int) -> None:
    """The keeper's numbers have 64 bits, and most of them no sign."""
    try:
        plan = with_host(**{field: value}).plan
    except InvalidParameter:
        return
    found = msgspec.to_builtins(plan)
    signed = ("memory_limit", "memory_reservation", "memory_swap", "cpu_quota", "pids_limit", "oom_score_adj")
    for name, number in numbers(found):
        assert number < 1 << 63 or name in ("capabilities", "seccomp"), name
        assert number >= 0 or name in signed, name


def numbers(value: object, name: str = "") -> Iterator[tuple[str, int]]:
    """Every (member, number) of a tree."""
    if isinstance(value, dict):
        for key, member in value.items():
            yield from numbers(member, key)
    elif isinstance(value, list | tuple):
        for member in value:
            yield from numbers(member, name)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield name, value


def test_weights_that_the_kernel_has_not_are_taken_out_with_a_warning() -> None:
    host = msgspec.structs.replace(HOST, blkio_weight=False)
    asked = HostConfig(blkio_weight=100, blkio_weight_device=[{"Path": "/dev/odd", "Weight": 10}])
    found = resolved(asked, within=context(host=host))
    assert found.warnings == (
        "Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded.",
        "Your kernel does not support Block I/O weight_device or the cgroup is not mounted. "
        "Weight-device discarded.",
    )
    assert (found.host_config.blkio_weight, found.plan.cgroup.resources.blkio_weight) == (0, None)
    assert with_host(blkio_weight=100).plan.cgroup.resources.blkio_weight == 100


@pytest.mark.parametrize(("asked", "shown"), [(0, None), (-1, None), (None, None), (5, 5)])
def test_no_limit_of_pids_is_shown_as_none(asked: int | None, shown: int | None) -> None:
    assert with_host(pids_limit=asked).host_config.pids_limit == shown
