"""The git that fetches: what it is given of this host, how much it may say, and what is left of it."""

import asyncio
import json
import os
import signal
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import proa_native
import pytest

from proa.build import git
from proa.build.git import fetch_git, resolve_git
from proa.errors import InvalidParameter

_COMMIT = "a" * 40


class Host:
    """A directory of programs that stand before this host's own."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def program(self, name: str, text: str) -> None:
        path = self.root / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def git(self, text: str) -> None:
        """A git that does this, `$log` being where it may write."""
        self.program("git", f"log={self.root}\n{text}")

    def calls(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in (self.root / "calls").read_text().splitlines()]


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    root = tmp_path / "bin"
    root.mkdir()
    monkeypatch.setenv("PATH", f"{root}:{os.environ['PATH']}")
    return Host(root)


def recorded(host: Host) -> None:
    """A git that writes down what it is called with, finds _COMMIT, and has a submodule."""
    host.git(
        f"""python3 -c 'import json, os, sys
print(json.dumps(dict(words=sys.argv[1:], environment=dict(os.environ))))' "$@" >> $log/calls
case "$*" in
    *ls-remote*) printf '{_COMMIT}\\tHEAD\\n' ;;
    *" submodule "*) ;;
    *"init -q -- "*) for target; do :; done; mkdir $target/.git; : > $target/.gitmodules ;;
esac"""
    )


def output(words: list[str], environment: dict[str, str], text: str = "") -> list[str]:
    done = subprocess.run(words, env=environment, input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


async def fetched(url: str, target: Path, **options: str) -> None:
    target.mkdir()
    await fetch_git(url, str(target), executor=None, **options)


@pytest.mark.parametrize(
    ("url", "protocols"),
    [
        ("https://h/r.git", "http:https:git"),
        ("git://h/r.git", "http:https:git"),
        ("ssh://git@h/r.git", "http:https:git:ssh"),
        ("git@h:r.git", "http:https:git:ssh"),
    ],
)
async def test_submodules_are_behind_ssh_only_where_the_repository_is(
    host: Host, tmp_path: Path, url: str, protocols: str
) -> None:
    recorded(host)
    await fetched(url, tmp_path / "target")
    found = [call["environment"] for call in host.calls() if "submodule" in call["words"]]
    assert [environment["GIT_ALLOW_PROTOCOL"] for environment in found] == [protocols]


@pytest.mark.parametrize("agent", ["", "/run/some/agent"])
async def test_ssh_has_the_builds_agent_and_nothing_of_this_host(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, agent: str
) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", "/run/this/hosts")
    recorded(host)
    await fetched("git@h:r.git", tmp_path / "target", agent=agent)
    for call in host.calls():
        environment = call["environment"]
        assert environment.get("SSH_AUTH_SOCK", "") == agent
        command = environment["GIT_SSH_COMMAND"].split()
        told = output([*command, "-G", "h"], environment)
        assert [line for line in told if line.startswith("identityfile ")] == ["identityfile none"]
        assert [*command[1:3]] == ["-F", "/dev/null"]
        assert "batchmode yes" in told
        assert ("identityagent none" in told) == (not agent)


async def test_credentials_stand_in_no_command_line(host: Host, tmp_path: Path) -> None:
    recorded(host)
    await fetched("https://user:s%65cret@h:8080/r.git", tmp_path / "target")
    for call in host.calls():
        assert not [word for word in call["words"] if "cret" in word]
    option = next(word for word in host.calls()[0]["words"] if word.startswith("credential."))
    name, _, helper = option.partition("=")
    (host.root / "git").unlink()
    environment = {**os.environ, **host.calls()[0]["environment"]}
    words = ["git", "-c", f"{name}={helper}", "credential", "fill"]
    given = output(words, environment, "url=https://h:8080/r.git\n\n")
    assert {"username=user", "password=secret"} <= {*given}


async def test_what_git_says_is_bounded(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(git, "_OUTPUT", 1 << 20)
    host.git("exec cat /dev/zero")
    with pytest.raises(InvalidParameter, match="git's output exceeds 1 MiB"):
        await resolve_git("https://h/r.git")


async def test_of_complaints_the_last_are_kept(host: Host) -> None:
    host.git("head -c 1000000 /dev/zero | tr '\\0' x >&2; echo the end >&2; exit 1")
    with pytest.raises(InvalidParameter) as caught:
        await resolve_git("https://h/r.git")
    assert str(caught.value).endswith("xxxthe end")
    assert len(str(caught.value)) < 66_000


async def test_a_cancelled_fetch_leaves_no_process(host: Host) -> None:
    """Its end is seen at a pipe that a child of git alone holds."""
    fifo = host.root / "fifo"
    os.mkfifo(fifo)
    host.git("sh -c 'exec >$0; echo begun; exec sleep 1000' $log/fifo & wait")
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    pipe = os.fdopen(os.open(fifo, os.O_RDONLY | os.O_NONBLOCK), "rb")
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    try:
        task = asyncio.create_task(resolve_git("https://h/r.git"))
        assert await reader.readline() == b"begun\n"
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.wait_for(reader.read(), 20) == b""
    finally:
        transport.close()


async def test_a_fetch_cancelled_while_git_starts_leaves_no_process(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.git("exec sleep 1000")
    start, started = asyncio.create_subprocess_exec, asyncio.Event()
    processes = []

    async def slowly(*words: object, **options: object) -> asyncio.subprocess.Process:
        processes.append(await start(*words, **options))
        started.set()
        await asyncio.sleep(0)
        return processes[0]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", slowly)
    task = asyncio.create_task(resolve_git("https://h/r.git"))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert processes[0].returncode == -signal.SIGKILL


async def test_the_git_directory_is_removed_by_the_executor(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded(host)
    removed: list[str] = []

    def remove(path: str) -> None:
        removed.append(threading.current_thread().name.partition("_")[0])

    monkeypatch.setattr(proa_native, "remove_tree", remove)
    (tmp_path / "target").mkdir()
    with ThreadPoolExecutor(1, "remover") as executor:
        await fetch_git("https://h/r.git", str(tmp_path / "target"), executor=executor)
    assert removed == ["remover"]
