"""Names of interfaces that macvlans sit on."""

import pytest

from proa.network import link


@pytest.mark.parametrize("vlan", ["0", "4095", "99999", "abc", "²", "-1", ""])
def test_a_vlan_s_number_is_one(vlan: str) -> None:
    with pytest.raises(OSError, match="vlan id must be between 1-4094"):
        link.ensure_parent(f"nosuch0.{vlan}", "mark")
