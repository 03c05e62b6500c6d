"""Whether an init would notice a signal. Source: signal(7), pid_namespaces(7), proc(5) on status."""

import re
import signal
from pathlib import Path

_MASK = re.compile(r"^Sig(Blk|Cgt):\t([0-9a-f]+)$", re.MULTILINE)


def is_noticed(pid: int, number: int) -> bool:
    """Whether the init `pid` of a pid namespace does anything on this signal.

    The kernel drops a signal from outside to an init that has no handler for it; one that is blocked
    may be read from a signalfd. Unknown (the process is gone) counts as noticed.
    """
    if number in (signal.SIGKILL, signal.SIGSTOP):
        return True
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True
    return any(int(mask, 16) >> (number - 1) & 1 for _, mask in _MASK.findall(status))
