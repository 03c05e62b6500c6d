"""Git repositories as contexts and as sources of ADD: their URLs, and the host's git that fetches them.

    https://host/repo.git#ref:directory
    https://host/repo.git?branch=b&subdir=d&checksum=c&submodules=false&keep-git-dir=true

Submodules come with a repository. A repository is never trusted: no hook, no protocol that runs a program, no
file of this host, and nothing that git could take for an option (CVE-2019-13139). Of ssh it gets the build's
agent and no key or configuration of this host; a submodule may be behind ssh only where the repository is.
Credentials stand in git's environment: the command line of a process is anybody's to read.

Source: docker build's reference, "Git repositories", "URL queries".
"""

import asyncio
import os
import re
import signal
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Sequence
from concurrent.futures import Executor
from contextlib import suppress
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

import proa_native
from msgspec import Struct

from proa.build.calls import to_its_end
from proa.build.words import is_bare_git
from proa.errors import InvalidParameter, NotFound

_REF: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./@+-]*")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_HOST: Final = re.compile(r"[A-Za-z0-9._-]+(:[0-9]+)?|\[[0-9A-Fa-f:.]+\](:[0-9]+)?")
_SSH: Final = "ssh -F /dev/null -oBatchMode=yes -oIdentityFile=none"
_HELPER: Final = (
    """!f() { printf 'username=%s\\npassword=%s\\n' "$PROA_GIT_USERNAME" "$PROA_GIT_PASSWORD"; }; f"""
)
"""A credential helper for git's shell, whose own printf shows its arguments to nobody."""
_OUTPUT: Final = 16 << 20
_ERRORS: Final = 64 << 10
_TRUE, _FALSE = ("1", "t", "T", "true", "TRUE", "True"), ("0", "f", "F", "false", "FALSE", "False")


class GitUrl(Struct, frozen=True, kw_only=True):
    """A repository, and what is wanted of it; `checksum` is the beginning of a commit's id."""

    remote: str
    reference: str = "HEAD"
    directory: str = ""
    checksum: str = ""
    keep_git_dir: bool = False
    submodules: bool = True


def parse_git(url: str) -> GitUrl:
    """Raises InvalidParameter, also for what git could misunderstand."""
    remote, _, fragment = url.partition("#")
    remote, question, query = remote.partition("?")
    reference, _, directory = fragment.partition(":")
    found = {"ref": reference, "subdir": directory, "checksum": "", "keep-git-dir": "", "submodules": ""}
    if question:
        _ask(found, query)
    alone = found["checksum"] if _COMMIT.fullmatch(found["checksum"]) else "HEAD"
    reference, directory = found["ref"] or alone, found["subdir"]
    if is_bare_git(remote):
        remote = f"https://{remote}"
    if remote.startswith("-") or not _REF.fullmatch(reference) or ".." in reference:
        raise InvalidParameter(f"invalid git reference: {url!r}")
    if remote.startswith(("http://", "https://", "git://", "ssh://")):
        host = urlsplit(remote).hostname or ""
        if not host or host.startswith("-"):
            raise InvalidParameter(f"invalid git URL: {url!r}")
    if directory.startswith("/") or ".." in directory.split("/"):
        raise InvalidParameter(f"invalid git subdirectory: {directory!r}")
    return GitUrl(
        remote=remote,
        reference=reference,
        directory=directory,
        checksum=found["checksum"],
        keep_git_dir=_truth("keep-git-dir", found["keep-git-dir"] or "false"),
        submodules=_truth("submodules", found["submodules"] or "true"),
    )


def _ask(found: dict[str, str], query: str) -> None:
    """Take a URL's query over. Raises InvalidParameter."""
    seen = set()
    for name, value in parse_qsl(query, keep_blank_values=True):
        if not value:
            raise InvalidParameter(f'query "{name}" has no value')
        if name in seen:
            raise InvalidParameter(f'query "{name}" has multiple values')
        seen.add(name)
        kind, prefix = {
            "branch": ("ref", "refs/heads/"),
            "tag": ("ref", "refs/tags/"),
            "commit": ("checksum", ""),
        }.get(name, (name, ""))
        if kind not in found:
            raise InvalidParameter(f'unexpected query "{name}"')
        wanted = prefix + value.removeprefix(prefix)
        if found[kind] not in ("", wanted):
            raise InvalidParameter(f'{name} conflicts: "{found[kind]}" vs "{wanted}"')
        found[kind] = wanted


def _truth(name: str, value: str) -> bool:
    if value not in _TRUE and value not in _FALSE:
        raise InvalidParameter(f'invalid {name} value: "{value}"')
    return value in _TRUE


class _Git:
    """The host's git, with what it may have for one repository. Raises InvalidParameter."""

    def __init__(self, remote: str, agent: str) -> None:
        self.remote, self._options, secrets = _apart(remote)
        ssh = "://" not in remote or remote.startswith("ssh://")
        self._environment = {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "HOME": "/nonexistent",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ALLOW_PROTOCOL": "http:https:git:ssh" if ssh else "http:https:git",
            "GIT_SSH_COMMAND": _SSH if agent else f"{_SSH} -oIdentityAgent=none",
            **({"SSH_AUTH_SOCK": agent} if agent else {}),
            **secrets,
        }

    async def __call__(self, *arguments: str) -> str:
        """Run git without hooks, prompts, the user's configuration, or protocols that run programs."""
        # gc would leave the session, and so outlive it.
        options = ("-c", "core.hooksPath=/dev/null", "-c", "protocol.file.allow=never", "-c", "gc.auto=0")
        # Cancelled while it starts, asyncio would kill git alone, which may have children already.
        starting = asyncio.ensure_future(
            asyncio.create_subprocess_exec(
                "git",
                *options,
                *self._options,
                *arguments,
                env=self._environment,
                stdin=DEVNULL,
                stdout=PIPE,
                stderr=PIPE,
                start_new_session=True,
            )
        )
        try:
            process = await asyncio.shield(starting)
            output, errors = await _outputs(process)
            await process.wait()
        except FileNotFoundError as exc:
            raise NotFound("git is not installed on this host: a git repository cannot be fetched") from exc
        except BaseException:
            await to_its_end(asyncio.ensure_future(_end(starting)))
            raise
        if process.returncode:
            raise InvalidParameter(
                f"failed to fetch git repository: {errors.decode(errors='replace').strip()}"
            )
        return output.decode(errors="replace")


async def resolve_git(url: str, *, agent: str = "") -> str:
    """The commit that a URL's ref is at now; `agent` is an ssh agent's socket.

    Raises InvalidParameter, NotFound.
    """
    wanted = parse_git(url)
    commit = await _resolve(wanted, _Git(wanted.remote, agent))
    if not commit.startswith(wanted.checksum):
        raise InvalidParameter(f"expected checksum to match {wanted.checksum}, got {commit}")
    return commit


async def _resolve(wanted: GitUrl, git: _Git) -> str:
    reference = wanted.reference
    if _COMMIT.fullmatch(reference):
        return reference
    output = await git("ls-remote", "--", git.remote, reference, f"{reference}^{{}}")
    found = {name: commit for commit, _, name in (line.partition("\t") for line in output.splitlines())}
    for name in (reference, f"refs/tags/{reference}", f"refs/heads/{reference}", *found):
        # An annotated tag's commit is listed after the tag.
        if commit := found.get(f"{name}^{{}}") or found.get(name):
            return commit
    raise InvalidParameter(f"repository does not contain ref {reference}")


async def fetch_git(
    url: str,
    target: str,
    *,
    executor: Executor | None,
    agent: str = "",
    commit: str = "",
    keep_git_dir: bool = False,
) -> str:
    """Fetch a repository into the empty directory `target`; returns the directory asked for.

    `commit` is what its ref was found at, `agent` an ssh agent's socket. However this ends, nothing writes
    to `target` any more. Raises InvalidParameter, and NotFound where this host has no git.
    """
    wanted = parse_git(url)
    commit = commit or await resolve_git(url, agent=agent)
    git = _Git(wanted.remote, agent)
    await git("init", "-q", "--", target)
    there = ("-C", target)
    await git(*there, "remote", "add", "--", "origin", git.remote)
    await _fetch(git, there, wanted.reference, commit)
    await git(*there, "checkout", "-q", "--detach", commit)
    if wanted.submodules and _has_submodules(target):
        await git(*there, "submodule", "update", "-q", "--init", "--recursive", "--depth=1")
    if not (keep_git_dir or wanted.keep_git_dir):
        loop = asyncio.get_running_loop()
        await to_its_end(loop.run_in_executor(executor, proa_native.remove_tree, f"{target}/.git"))
    return _subdirectory(target, wanted.directory) if wanted.directory else target


async def _fetch(git: _Git, there: Sequence[str], reference: str, commit: str) -> None:
    """Have the commit there: by its name, or by its ref, or among all that there is."""
    shallow = (*there, "fetch", "-q", "--depth", "1", "--no-tags", "--", "origin")
    try:
        await git(*shallow, commit)
    except InvalidParameter:
        # Not every server gives what no ref is at, nor does every one know shallow clones.
        if not _COMMIT.fullmatch(reference):
            try:
                await git(*shallow, reference)
                if (await git(*there, "rev-parse", "FETCH_HEAD^{commit}")).strip() == commit:
                    return
            except InvalidParameter:
                pass
        every = ("refs/heads/*:refs/remotes/origin/*", "refs/tags/*:refs/tags/*")
        await git(*there, "fetch", "-q", "--", "origin", *every)


def _has_submodules(target: str) -> bool:
    return os.path.lexists(f"{target}/.gitmodules")


def _apart(remote: str) -> tuple[str, tuple[str, ...], dict[str, str]]:
    """A URL without its credentials, options to have git ask for them, and the environment they are in.

    Raises InvalidParameter for what git's configuration or its helpers' protocol would misunderstand.
    """
    scheme, _, rest = remote.partition("://")
    place, _, path = rest.partition("/")
    credentials, _, host = place.rpartition("@")
    if not credentials or scheme not in ("http", "https"):
        return remote, (), {}
    username, _, password = (unquote(word) for word in credentials.partition(":"))
    if not _HOST.fullmatch(host) or any(sign in username + password for sign in "\0\r\n"):
        raise InvalidParameter("invalid git URL: its credentials or its host cannot be used")
    return (
        f"{scheme}://{host}/{path}",
        ("-c", f"credential.{scheme}://{host}.helper={_HELPER}"),
        {"PROA_GIT_USERNAME": username, "PROA_GIT_PASSWORD": password},
    )


def _subdirectory(root: str, directory: str) -> str:
    """A directory of a repository that was fetched, which nobody else changes. Raises InvalidParameter."""
    path, top = os.path.realpath(f"{root}/{directory}"), os.path.realpath(root)
    if os.path.commonpath((path, top)) != top:
        raise InvalidParameter(f"git subdirectory {directory!r} is outside of the repository")
    if not os.path.isdir(path):
        raise InvalidParameter(f"git subdirectory {directory!r} not found")
    return path


async def _outputs(process: Process) -> tuple[bytes, bytes]:
    """All that a process writes, and the end of what it complains of: the server may have it write on and on.

    Raises InvalidParameter.
    """
    assert process.stdout is not None
    assert process.stderr is not None
    readers = (
        asyncio.create_task(_whole(process.stdout)),
        asyncio.create_task(_last(process.stderr, _ERRORS)),
    )
    try:
        output, errors = await asyncio.gather(*readers)
        return output, errors
    finally:
        for reader in readers:
            reader.cancel()
        await asyncio.wait(readers)


async def _whole(stream: asyncio.StreamReader) -> bytes:
    found = bytearray()
    while chunk := await stream.read(1 << 16):
        found += chunk
        if len(found) > _OUTPUT:
            raise InvalidParameter(
                f"failed to fetch git repository: git's output exceeds {_OUTPUT >> 20} MiB"
            )
    return bytes(found)


async def _last(stream: asyncio.StreamReader, count: int) -> bytes:
    found = b""
    while chunk := await stream.read(1 << 16):
        found = (found + chunk)[-count:] if count else b""
    return found


async def _end(starting: "asyncio.Future[Process]") -> None:
    """Kill git and all that it has started; a pipe that is not read to its end may have wait() hang."""
    try:
        process = await starting
    except OSError:
        return
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    assert process.stdout is not None
    assert process.stderr is not None
    await asyncio.gather(_last(process.stdout, 0), _last(process.stderr, 0))
    await process.wait()
