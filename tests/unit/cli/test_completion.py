"""Completion: what `proa __complete` answers, and the shells' scripts over it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from proa.cli import candidates, completion, completion_values
from proa.cli.catalogue import GROUPS, MODULES
from proa.cli.flags import Globals
from proa.cli.main import load

PYTHON = Path(__file__).parents[3] / "python"


class FakeApi:
    """A daemon with two containers, an image and a volume."""

    def call(self, method: str, path: str) -> object:
        assert method == "GET"
        return {
            "/containers/json?all=1": [
                {"Names": ["/web", "/other/alias"], "State": "running"},
                {"Names": ["/done"], "State": "exited"},
            ],
            "/images/json": [{"RepoTags": ["nginx:latest", "nginx:1.25"]}, {"RepoTags": ["<none>:<none>"]}],
            "/networks": [{"Name": "bridge"}, {"Name": "backend"}],
            "/volumes": {"Volumes": [{"Name": "data"}]},
        }[path]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Globals]:
    """The global options of every question that went to the daemon."""
    options: list[Globals] = []

    def client_for(given: Globals) -> FakeApi:
        options.append(given)
        return FakeApi()

    monkeypatch.setattr("proa.cli.endpoint.client_for", client_for)
    return options


def _answer(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[list[str], int]:
    assert candidates.answer(list(words), described=False) == 0
    *names, last = capsys.readouterr().out.splitlines()
    return names, int(last.removeprefix(":"))


@pytest.mark.parametrize(
    ("words", "expected", "directive"),
    [
        (["ru"], ["run"], 4),
        (["container", "re"], ["remove", "rename", "restart"][1:], 4),
        (["--host", "tcp"], ["tcp://"], 6),
        (["run", "--restart", ""], ["no", "always", "on-failure", "unless-stopped"], 4),
        (["run", "--restart=un"], ["unless-stopped"], 4),
        (["container", "run", "--net"], ["--network", "--network-alias"], 4),
        (["run", "--name", "--rm", "--r"], ["--read-only", "--restart", "--rm", "--rootfs", "--runtime"], 4),
        (["run", "--rm", "--rm"], [], 4),
        (["build", ""], [], 16),
        (["build", "-f", ""], [], 0),
        (["ps", "--filter", "na"], ["name="], 6),
        (["ps", "x"], [], 4),
        (["nothing", "x"], [], 4),
        (["container", "nothing", "x"], [], 4),
        (["help", "vol"], ["volume"], 4),
        (["completion", ""], ["bash", "fish", "zsh"], 4),
        (["context", "use", "d"], ["default"], 4),
        (["--context", "d"], ["default"], 4),
        (["context", "import", ""], [], 4),
    ],
)
def test_what_needs_no_daemon(
    asked: list[Globals],
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    expected: list[str],
    directive: int,
) -> None:
    assert _answer(capsys, *words) == (expected, directive)
    assert not asked


@pytest.mark.parametrize(
    ("words", "expected", "directive"),
    [
        (["run", "-it", ""], ["nginx", "nginx:1.25"], 4),
        (["run", "-d", "nginx:l"], ["nginx:latest"], 4),
        (["run", "--network", "ba"], ["backend"], 4),
        (["run", "-v", "d"], ["data:"], 2),
        (["exec", ""], ["web"], 4),
        (["start", ""], ["done"], 4),
        (["rm", "web", ""], ["done"], 4),
        (["cp", "w"], ["web:"], 2),
        (["network", "connect", "backend", "w"], ["web"], 4),
        (["inspect", ""], ["backend", "bridge", "data", "done", "nginx", "nginx:1.25", "web"], 4),
    ],
)
def test_what_the_daemon_has(
    asked: list[Globals],
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    expected: list[str],
    directive: int,
) -> None:
    assert _answer(capsys, "-H", "tcp://there", *words) == (expected, directive)
    assert asked[0].hosts == ["tcp://there"]


def test_arguments_of_the_container_are_nobodys(
    asked: list[Globals], capsys: pytest.CaptureFixture[str]
) -> None:
    assert _answer(capsys, "run", "nginx", "--") == ([], 4)
    assert not asked


def test_no_daemon_is_started(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("DOCKER_HOST", "PROA_HOST", "DOCKER_CONTEXT", "PROA_CONTEXT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PROA_EXEC_ROOT", str(tmp_path))
    assert _answer(capsys, "exec", "") == ([], 1)
    assert not list(tmp_path.iterdir())


def test_descriptions_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    candidates.answer(["run", "--cgroupn"], described=True)
    assert capsys.readouterr().out == "--cgroupns\tCgroup namespace to use (host|private)\n:4\n"


def test_every_command_is_known() -> None:
    paths = {load(module, name).path for name, module in MODULES.items()}
    assert completion_values.ARGUMENTS.keys() <= paths
    assert {full for group in GROUPS.values() for full in group.values()} <= MODULES.keys()


@pytest.fixture
def proa(tmp_path: Path) -> str:
    """A PATH with `proa`, which answers what a test writes, and keeps what it was asked."""
    program = tmp_path / "bin" / "proa"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\nfor word; do printf "%s\\n" "$word"; done > {tmp_path}/asked\ncat {tmp_path}/answer\n'
    )
    program.chmod(0o755)
    return f"{program.parent}:{os.environ['PATH']}"


def _shell(path: str, home: Path, *command: str) -> str:
    if shutil.which(command[0]) is None:
        pytest.skip(f"no {command[0]} here")
    environment = {"PATH": path, "HOME": str(home), "TERM": "dumb"}
    done = subprocess.run(
        command,
        env=environment,
        cwd=home,
        capture_output=True,
        text=True,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    assert not done.stderr
    return done.stdout


def _bash(proa: str, home: Path, line: str, answer: str) -> list[str]:
    (home / "answer").write_text(answer)
    (home / "script").write_text(completion.SCRIPTS["bash"])
    # compopt works in a completion only, and says so on stderr.
    text = (
        'compopt() { :; }; . ./script; COMP_LINE=$1 COMP_POINT=${#1}; _proa; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    return _shell(proa, home, "bash", "-c", text, "bash", line).splitlines()


@pytest.mark.parametrize(
    ("line", "answer", "expected", "asked"),
    [
        ("proa run --rm ngi", "nginx\nnginx:1.25\n:4\n", ["nginx", "nginx:1.25"], ["run", "--rm", "ngi"]),
        ("proa run nginx:1", "nginx:1.25\n:4\n", ["1.25"], ["run", "nginx:1"]),
        ("proa run --pull=a", "always\n:4\n", ["always"], ["run", "--pull=a"]),
        ("proa ps ", ":4\n", [""], ["ps", ""]),
        ("proa build b", ":16\n", ["bin"], ["build", "b"]),
        ("proa build -f scr", ":0\n", ["script"], ["build", "-f", "scr"]),
        ("proa exec ", ":1\n", [""], ["exec", ""]),
    ],
)
def test_bash(
    proa: str, tmp_path: Path, line: str, answer: str, expected: list[str], asked: list[str]
) -> None:
    assert _bash(proa, tmp_path, line, answer) == expected
    assert (tmp_path / "asked").read_text().splitlines() == ["__completeNoDesc", *asked]


def test_fish(proa: str, tmp_path: Path) -> None:
    (tmp_path / "answer").write_text("always\tEach time\n:4\n")
    (tmp_path / "script").write_text(completion.SCRIPTS["fish"])
    command = "source ./script; complete -C 'proa run --pull=a'"
    assert _shell(proa, tmp_path, "fish", "--no-config", "-c", command) == "--pull=always\tEach time\n"
    assert (tmp_path / "asked").read_text().splitlines() == ["__complete", "run", "--pull=a"]


def test_zsh(proa: str, tmp_path: Path) -> None:
    """The functions of zsh's own completion, which run in its line editor only, say what they were given."""
    (tmp_path / "answer").write_text("nginx:1.25\tA tag\nnginx\n:2\n")
    (tmp_path / "script").write_text(completion.SCRIPTS["zsh"])
    text = (
        'compdef() { : }; _describe() { print -rl -- "${(@P)3}" "${@:4}" }; . ./script\n'
        "words=(proa run ngi) CURRENT=3; _proa"
    )
    shown = _shell(proa, tmp_path, "zsh", "-f", "-c", text).splitlines()
    assert shown == ["nginx\\:1.25:A tag", "nginx", "-S", ""]
    assert (tmp_path / "asked").read_text().splitlines() == ["__complete", "run", "ngi"]


def test_candidates_come_from_the_command_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "proa.cli", "__complete", "system", "p"]
    done = subprocess.run(
        command, env={"PYTHONPATH": str(PYTHON)}, capture_output=True, text=True, check=True
    )
    assert done.stdout == "prune\tRemove unused data\n:4\n"
