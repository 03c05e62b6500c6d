"""Execs: create, start, inspect.

Source: the Docker Engine API, v1.51 (paths under /exec and /containers/{id}/exec).
"""

from msgspec import Struct, field

from proa.schema.integers import Int64


class ExecCreateRequest(Struct, frozen=True, kw_only=True, rename="pascal"):
    """The body of POST /containers/{id}/exec."""

    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    console_size: list[Int64] | None = None
    """Rows, columns."""
    detach_keys: str = ""
    tty: bool = False
    env: list[str] | None = None
    cmd: list[str] | None = None
    privileged: bool = False
    user: str = ""
    working_dir: str = ""
    container: str = ""
    detach: bool = False
    """These two are sent by docker-py and docker, and mean nothing."""


class ExecStartRequest(Struct, frozen=True, kw_only=True, rename="pascal"):
    """The body of POST /exec/{id}/start."""

    detach: bool = False
    tty: bool = False
    console_size: list[Int64] | None = None


class ExecProcessConfig(Struct, frozen=True, kw_only=True):
    """The process of an exec, as inspect shows it (lower-case keys)."""

    privileged: bool = False
    user: str = ""
    tty: bool = False
    entrypoint: str = ""
    arguments: list[str] = []


class ExecInspectResponse(Struct, frozen=True, kw_only=True, rename="pascal"):
    """The answer of GET /exec/{id}/json."""

    can_remove: bool = False
    detach_keys: str = ""
    id: str = field(default="", name="ID")
    running: bool = False
    exit_code: int | None = None
    process_config: ExecProcessConfig = ExecProcessConfig()
    open_stdin: bool = False
    open_stderr: bool = False
    open_stdout: bool = False
    container_id: str = field(default="", name="ContainerID")
    pid: int = 0
