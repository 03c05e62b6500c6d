"""Failures become one class and Docker's words, whatever the step and the errno."""

import errno
import os

import pytest

from proa.errors import Conflict, InvalidParameter, NotFound, ProaError, StartFailed, System
from proa.runtime.failures import exec_failure, failure, start_failure
from proa.schema.keeper import Failure

CREATE = "OCI runtime create failed: unable to start container process: "
EXEC = "OCI runtime exec failed: exec failed: unable to start container process: "


@pytest.mark.parametrize(
    ("step", "subject", "number", "code", "text"),
    [
        ("exec", "nosuch", errno.ENOENT, 127, 'exec: "nosuch": executable file not found in $PATH: unknown'),
        (
            "exec",
            "/nosuch",
            errno.ENOENT,
            127,
            'exec: "/nosuch": stat /nosuch: no such file or directory: unknown',
        ),
        ("exec", "/etc", errno.EACCES, 126, 'exec: "/etc": permission denied: unknown'),
        ("exec", "/etc", errno.EISDIR, 126, 'exec: "/etc": is a directory: unknown'),
        ("exec", "/bin/x", errno.ENOEXEC, 128, "exec /bin/x: exec format error: unknown"),
        (
            "cwd",
            "/x",
            errno.ENOTDIR,
            126,
            'chdir to cwd ("/x") set in config.json failed: not a directory: unknown',
        ),
        ("cgroup", "write 1 to x", errno.EINVAL, 128, "cgroup write 1 to x: invalid argument: unknown"),
        ("seccomp", "", 0, 128, "seccomp: unknown"),
    ],
)
def test_a_start_that_failed(step: str, subject: str, number: int, code: int, text: str) -> None:
    told = start_failure(Failure(step=step, subject=subject, errno=number))
    assert isinstance(told, StartFailed)
    assert str(told) == CREATE + text
    assert told.code == code
    again = exec_failure(Failure(step=step, subject=subject, errno=number))
    assert str(again) == EXEC + text


def test_a_mount_of_the_wrong_kind_says_what_to_look_at() -> None:
    told = start_failure(Failure(step="mount", subject="/etc/hosts", errno=errno.ENOTDIR))
    assert "Are you trying to mount a directory onto a file" in str(told)


@pytest.mark.parametrize("translate", [failure, start_failure, exec_failure])
@pytest.mark.parametrize(
    ("step", "kind"), [("not_found", NotFound), ("conflict", Conflict), ("invalid", InvalidParameter)]
)
def test_what_the_keeper_refused_keeps_its_words(translate, step: str, kind: type[ProaError]) -> None:
    told = translate(Failure(step=step, subject="No such container: x", errno=0))
    assert type(told) is kind
    assert str(told) == "No such container: x"


@pytest.mark.parametrize("translate", [failure, start_failure, exec_failure])
def test_the_translation_is_total(translate) -> None:
    for step in ("exec", "mount", "clone", "pivot_root", "anything", ""):
        for number in (0, *errno.errorcode):
            told = translate(Failure(step=step, subject="s", errno=number))
            assert isinstance(told, ProaError)
            assert not number or os.strerror(number).lower() in str(told) or step == "exec"


def test_any_other_request_that_failed_is_the_host_s_failure() -> None:
    assert isinstance(failure(Failure(step="ioctl", subject="TIOCSWINSZ", errno=errno.EIO)), System)
