"""`docker top`: the host's ps, its lines picked by the container's processes; /proc where there is no ps.

Source: moby daemon/top_unix.go.
"""

import asyncio
import os
import re
import time
from collections.abc import Collection
from pathlib import Path

from proa.errors import InvalidParameter, System
from proa.schema.container_state import ContainerTopResponse

DEFAULT_ARGS = "-ef"
_RENAMED_PID = re.compile(r"\s+(\S*)=\s*(PID\S*)")


async def top(pids: Collection[int], ps_args: str) -> ContainerTopResponse:
    """Raises InvalidParameter for arguments that ps refuses or that hide the PID column."""
    arguments = ps_args or DEFAULT_ARGS
    for match in _RENAMED_PID.finditer(" " + arguments):
        if match[1] != "pid":
            raise InvalidParameter(f'specifying "{match[1]}={match[2]}" is not allowed')
    output = await _ps(arguments)
    return _from_proc(pids) if output is None else parse(output, pids)


def parse(output: str, pids: Collection[int]) -> ContainerTopResponse:
    """The title line, and the lines whose PID is one of `pids`; the last column keeps its spaces joined."""
    lines = output.splitlines()
    titles = lines[0].split() if lines else []
    if "PID" not in titles:
        raise InvalidParameter("Couldn't find PID field in ps output")
    pid_column, last = titles.index("PID"), len(titles) - 1
    found: list[list[str] | None] = []
    picked = False
    for line in lines[1:]:
        fields = line.split()
        if len(fields) <= pid_column:
            continue
        # `ps -m` lists threads below their process with "-" for a pid.
        picked = picked if fields[pid_column] == "-" else _number(fields[pid_column]) in pids
        if picked:
            found.append([*fields[:last], " ".join(fields[last:])])
    return ContainerTopResponse(titles=titles, processes=found)


async def _ps(arguments: str) -> str | None:
    try:
        process = await asyncio.create_subprocess_exec(
            "ps",
            *arguments.split(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except FileNotFoundError:
        return None
    output, errors = await process.communicate()
    if process.returncode:
        raise System(f"ps: {errors.decode(errors='replace').strip() or f'exit status {process.returncode}'}")
    return output.decode(errors="replace")


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise System(f"Unexpected pid '{text}'") from None


def _from_proc(pids: Collection[int]) -> ContainerTopResponse:
    """The columns of `ps -ef`, as far as /proc tells them without a terminal database."""
    rows: list[list[str] | None] = []
    for pid in sorted(pids):
        try:
            rows.append(_row(pid))
        except OSError:
            continue  # it ended meanwhile
    titles = ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
    return ContainerTopResponse(titles=titles, processes=rows)


def _row(pid: int) -> list[str]:
    directory = Path(f"/proc/{pid}")
    stat = (directory / "stat").read_text()
    name = stat[stat.index("(") + 1 : stat.rindex(")")]
    fields = stat[stat.rindex(")") + 2 :].split()
    arguments = (
        (directory / "cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")
    )
    ticks = os.sysconf("SC_CLK_TCK")
    seconds = (int(fields[11]) + int(fields[12])) // ticks
    started = time.localtime(_boot_time() + int(fields[19]) / ticks)
    return [
        str(directory.stat().st_uid),
        str(pid),
        fields[1],
        "0",
        time.strftime("%H:%M", started),
        "?",
        f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}",
        arguments or f"[{name}]",
    ]


def _boot_time() -> int:
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith("btime "):
            return int(line.split()[1])
    return 0
