"""Several faults in one message, as dockerd writes them. Source: moby daemon/internal/multierror."""

from collections.abc import Sequence


def listed(faults: Sequence[str]) -> str:
    """One as it is, more of them as a list."""
    if len(faults) == 1:
        return faults[0]
    return "\n".join("* " + fault.replace("\n", "\n\t") for fault in faults)
