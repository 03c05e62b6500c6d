"""Promises of README.md's table that no other test is about."""

import json
from pathlib import Path

from instance import Instance


def test_seccomp_does_not_slow_speculation(daemon: Instance) -> None:
    """The filter comes with SECCOMP_FILTER_FLAG_SPEC_ALLOW: what mitigates speculation is as on the host."""

    def lines(status: str) -> list[str]:
        return [line for line in status.splitlines() if line.startswith("Speculation")]

    inside = daemon.run("run", "--rm", "busybox", "cat", "/proc/self/status").stdout
    assert "Seccomp:\t2" in inside
    assert lines(inside) == lines(Path("/proc/self/status").read_text())


def test_what_is_thrown_away_is_not_synced(daemon: Instance) -> None:
    """--rm has a volatile overlay: nothing of it is ever synced; what stays has not."""
    script = ("busybox", "busybox", "grep", " / / ", "/proc/self/mountinfo")
    assert "volatile" in daemon.run("run", "--rm", *script).stdout
    try:
        kept = daemon.run("run", "--name", "kept", *script).stdout
    finally:
        daemon.run("rm", "kept")
    assert "overlay" in kept
    assert "volatile" not in kept


def test_disk_usage_counts_logs(daemon: Instance) -> None:
    text = "x" * 99_999
    try:
        assert daemon.run("run", "--name", "talker", "busybox", "echo", text).returncode == 0
        found = {row["Names"][0]: row for row in daemon.api.call("GET", "/system/df")["Containers"]}
        assert found["/talker"]["SizeRw"] >= len(text), json.dumps(found["/talker"])
    finally:
        daemon.run("rm", "talker")
