"""The native side of healthchecks over the network: what it refuses before it probes."""

import os
import select

import pytest
from proa_native import Probes

RHYTHM = {"interval_ns": 10**12, "start_interval_ns": 10**12, "start_ends_ns": 0, "timeout_ns": 10**9}


@pytest.mark.parametrize("addresses", [[], ["localhost:80"], ["127.0.0.1"], ["127.0.0.1:80", "::1:80"]])
def test_addresses_are_literal_ones_with_ports(addresses: list[str]) -> None:
    with pytest.raises(ValueError, match=r"address"):
        Probes().watch(os.getpid(), addresses, b"", **RHYTHM, starting=True, late="")


def test_nothing_is_told_of_what_was_not_asked() -> None:
    probes = Probes()
    assert probes.news() == []
    assert probes.take(1) == []
    probes.unwatch(1)
    assert select.select([probes.fileno()], [], [], 0)[0] == []
    probes.close()
    probes.close()


def test_who_is_watched_has_a_number_of_its_own() -> None:
    probes = Probes()
    numbers = [
        probes.watch(os.getpid(), ["127.0.0.1:1"], b"", **RHYTHM, starting=True, late="") for _ in range(3)
    ]
    assert len(set(numbers)) == 3
    probes.close()
