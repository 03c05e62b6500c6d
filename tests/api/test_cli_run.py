"""`proa run` and its kin against a server that plays a container: streams, signals, terminals, exit codes."""

import os
import pty
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_daemon import CONTAINER_ID, EXEC_ID, Answer, FakeDaemon, Request, RunScript, frame

PYTHON = Path(__file__).parents[2] / "python"


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[FakeDaemon]:
    """The server, closed at the end."""
    server = FakeDaemon(tmp_path / "d.sock")
    yield server
    server.close()


def environment(recorder: FakeDaemon) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(recorder.socket_path.parent),
        "PYTHONPATH": str(PYTHON),
        "DOCKER_HOST": f"unix://{recorder.socket_path}",
        "TERM": "xterm",
    }


def spawn(recorder: FakeDaemon, *words: str, **how: object) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-m", "proa.cli", *words], env=environment(recorder), **how)  # type: ignore[call-overload,no-any-return]


def proa(recorder: FakeDaemon, *words: str, stdin: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        [sys.executable, "-m", "proa.cli", *words],
        env=environment(recorder),
        input=stdin,
        capture_output=True,
        timeout=30,
    )


def test_output_goes_where_the_container_sent_it(recorder: FakeDaemon) -> None:
    RunScript(output=frame(1, b"out\n") + frame(2, b"err\n"), exit_code=3).install(recorder)
    done = proa(recorder, "run", "--rm", "busybox", "true")
    assert (done.returncode, done.stdout, done.stderr) == (3, b"out\n", b"err\n")


def test_attach_and_wait_stand_before_start(recorder: FakeDaemon) -> None:
    RunScript().install(recorder)
    proa(recorder, "run", "--rm", "busybox")
    verbs = [request.path.rpartition("/")[2] for request in recorder.requests]
    assert verbs[0] == "create"
    assert set(verbs[1:3]) == {"attach", "wait"}
    assert verbs[3] == "start"
    assert recorder.find("POST", ".*/wait").query == "condition=removed"


def test_without_rm_it_waits_for_the_next_exit(recorder: FakeDaemon) -> None:
    RunScript().install(recorder)
    proa(recorder, "run", "busybox")
    assert recorder.find("POST", ".*/wait").query == "condition=next-exit"


def test_a_daemon_that_restarts_is_asked_again(recorder: FakeDaemon) -> None:
    RunScript(output=frame(1, b"ok")).install(recorder)
    broken = Answer(stream=lambda connection: None)
    answers = [broken, broken, Answer(200, {"StatusCode": 9})]
    recorder.on("POST", "/containers/[^/]+/wait", lambda _: answers.pop(0))
    done = proa(recorder, "run", "busybox")
    assert (done.returncode, done.stdout, done.stderr) == (9, b"ok", b"")
    assert recorder.find("POST", ".*/wait").query == "condition=not-running"


def test_the_exit_of_a_removed_container_is_in_the_events(recorder: FakeDaemon) -> None:
    RunScript(output=frame(1, b"ok")).install(recorder)
    answers = [Answer(stream=lambda connection: None), Answer(404, {"message": "No such container"})]
    recorder.on("POST", "/containers/[^/]+/wait", lambda _: answers.pop(0))
    died = b'{"Type":"container","Action":"die","Actor":{"ID":"c","Attributes":{"exitCode":"6"}}}\n'
    recorder.on("GET", "/events", Answer(200, died))
    assert proa(recorder, "run", "--rm", "busybox").returncode == 6


def test_detached_prints_the_id_and_is_done(recorder: FakeDaemon) -> None:
    RunScript().install(recorder)
    done = proa(recorder, "run", "-d", "--name", "web", "busybox")
    assert done.stdout.decode() == CONTAINER_ID + "\n"
    assert recorder.find("POST", "/containers/create").query == "name=web"


@pytest.mark.parametrize("size", [0, 1, 70_000, 5_000_000])
def test_input_of_any_size_comes_back(recorder: FakeDaemon, size: int) -> None:
    data = os.urandom(size)
    script = RunScript(echo=True)
    script.install(recorder)
    done = proa(recorder, "run", "-i", "--rm", "busybox", "cat", stdin=data)
    assert done.returncode == 0
    assert bytes(script.received) == data
    assert done.stdout == data


def test_it_ends_with_the_container_though_input_is_open(recorder: FakeDaemon) -> None:
    RunScript(output=frame(1, b"bye"), exit_code=7).install(recorder)
    process = spawn(recorder, "run", "-i", "busybox", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.read() == b"bye"
    assert process.wait(10) == 7
    process.stdin.close()
    process.stdout.close()


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ('exec: "nosuch": executable file not found in $PATH', 127),
        ('exec: "/etc": permission denied', 126),
        ('exec: "/etc": is a directory', 126),
        ("something else", 125),
    ],
)
def test_a_start_that_fails(recorder: FakeDaemon, message: str, code: int) -> None:
    RunScript(start_answer=Answer(400, {"message": message})).install(recorder)
    done = proa(recorder, "run", "--rm", "busybox", "nosuch")
    assert done.returncode == code
    assert done.stderr.decode() == (
        f"proa: Error response from daemon: {message}\n\nRun 'proa run --help' for more information\n"
    )


def test_an_image_that_is_missing_is_pulled(recorder: FakeDaemon) -> None:
    RunScript(output=frame(1, b"ok")).install(recorder)
    answers = [Answer(404, {"message": "No such image: busybox:latest"}), Answer(201, {"Id": CONTAINER_ID})]
    recorder.on("POST", "/containers/create", lambda _: answers.pop(0))
    recorder.on(
        "POST", "/images/create", Answer(200, b'{"status":"Pulling","id":"latest"}\r\n{"status":"Done"}\r\n')
    )
    done = proa(recorder, "run", "busybox")
    assert done.stdout == b"ok"
    assert done.stderr.decode() == ("Unable to find image 'busybox:latest' locally\nlatest: Pulling\nDone\n")
    assert recorder.find("POST", "/images/create").query == "fromImage=busybox&tag=latest"


def test_a_pull_that_fails_is_the_reason(recorder: FakeDaemon) -> None:
    recorder.on("POST", "/containers/create", Answer(404, {"message": "No such image: nope:latest"}))
    recorder.on("POST", "/images/create", Answer(404, {"message": "pull access denied for nope"}))
    done = proa(recorder, "run", "-q", "nope")
    assert done.returncode == 125
    assert done.stderr.startswith(b"proa: Error response from daemon: pull access denied for nope\n")


def test_an_older_daemon_is_spoken_to_in_its_version(recorder: FakeDaemon) -> None:
    recorder.max_version = "1.44"
    RunScript(output=frame(1, b"ok")).install(recorder)
    assert proa(recorder, "run", "busybox").stdout == b"ok"
    assert recorder.find("POST", ".*/start").version == "1.44"


def test_cidfile_is_written_once(recorder: FakeDaemon, tmp_path: Path) -> None:
    RunScript().install(recorder)
    path = tmp_path / "cid"
    assert proa(recorder, "run", "--cidfile", str(path), "busybox").returncode == 0
    assert path.read_text() == CONTAINER_ID
    again = proa(recorder, "run", "--cidfile", str(path), "busybox")
    assert again.returncode == 125
    assert b"container ID file found" in again.stderr


@pytest.mark.parametrize("flags", [("run",), ("run", "-i")])
def test_signals_go_to_the_container(recorder: FakeDaemon, flags: tuple[str, ...]) -> None:
    script = RunScript(output=frame(1, b"up"), ends_on_signal=True, exit_code=143)
    script.install(recorder)
    process = spawn(recorder, *flags, "busybox", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.read(2) == b"up"
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 143
    assert script.signals == ["signal=TERM"]
    process.stdin.close()
    process.stdout.close()


def test_a_reader_that_went_away_ends_it(recorder: FakeDaemon) -> None:
    RunScript(output=frame(1, b"x" * 200_000), ends_on_signal=True).install(recorder)
    process = spawn(recorder, "run", "busybox", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(10)
    process.stdout.close()
    assert process.stderr.read() == b"write /dev/stdout: broken pipe\n"
    process.stderr.close()
    assert process.wait(10) == 1


def install_exec(recorder: FakeDaemon, output: bytes, code: int) -> None:
    def stream(connection: "object") -> None:
        connection.sendall(output)  # type: ignore[attr-defined]

    kind = "application/vnd.docker.multiplexed-stream"
    recorder.on("POST", "/containers/c/exec", Answer(201, {"Id": EXEC_ID}))
    recorder.on("POST", f"/exec/{EXEC_ID}/start", Answer(stream=stream, content_type=kind))
    recorder.on("GET", f"/exec/{EXEC_ID}/json", Answer(200, {"ExitCode": code, "Running": False}))


def test_exec(recorder: FakeDaemon) -> None:
    install_exec(recorder, frame(1, b"done\n"), 5)
    done = proa(recorder, "exec", "-e", "A=1", "-u", "root", "-w", "/", "c", "sh", "-c", "exit 5")
    assert (done.returncode, done.stdout) == (5, b"done\n")
    assert recorder.find("POST", "/containers/c/exec").json == {
        "Cmd": ["sh", "-c", "exit 5"],
        "User": "root",
        "WorkingDir": "/",
        "Env": ["A=1"],
        "AttachStdout": True,
        "AttachStderr": True,
    }


def test_exec_takes_the_start_that_comes_with_its_creation(recorder: FakeDaemon) -> None:
    install_exec(recorder, b"", 5)

    def stream(connection: "object") -> None:
        connection.sendall(frame(1, b"done\n"))  # type: ignore[attr-defined]

    recorder.on("POST", "/containers/c/exec", Answer(stream=stream, location=f"/exec/{EXEC_ID}"))
    done = proa(recorder, "exec", "c", "sh")
    assert (done.returncode, done.stdout, done.stderr) == (5, b"done\n", b"")
    assert [(r.method, r.path, r.query) for r in recorder.requests] == [
        ("POST", "/containers/c/exec", "start=1"),
        ("GET", f"/exec/{EXEC_ID}/json", "wait=1"),
    ]


def test_exec_asks_again_where_the_daemon_does_not_wait(recorder: FakeDaemon) -> None:
    install_exec(recorder, b"", 0)
    answers = [{"ExitCode": 3, "Running": False}, {"ExitCode": None, "Running": True}]
    recorder.on("GET", f"/exec/{EXEC_ID}/json", lambda _: Answer(200, answers.pop()))
    assert proa(recorder, "exec", "c", "true").returncode == 3
    assert not answers


def test_exec_in_the_background(recorder: FakeDaemon) -> None:
    recorder.on("POST", "/containers/c/exec", Answer(201, {"Id": EXEC_ID}))
    recorder.on("POST", f"/exec/{EXEC_ID}/start", Answer(200))
    assert proa(recorder, "exec", "-d", "c", "true").returncode == 0
    assert recorder.find("POST", f"/exec/{EXEC_ID}/start").json == {"Detach": True, "Tty": False}


class Terminal:
    """A pseudo-terminal with a `proa` on it."""

    def __init__(self, recorder: FakeDaemon, *words: str) -> None:
        self.master, self.slave = pty.openpty()
        termios.tcsetwinsize(self.slave, (33, 101))
        self.before = termios.tcgetattr(self.slave)
        ends = {"stdin": self.slave, "stdout": self.slave, "stderr": self.slave}
        self.process = spawn(recorder, *words, start_new_session=True, **ends)

    def read_until(self, text: bytes) -> bytes:
        seen = b""
        while text not in seen:
            seen += os.read(self.master, 4096)
        return seen

    def close(self) -> None:
        os.close(self.master)
        os.close(self.slave)


def test_a_terminal_is_raw_while_it_runs_and_restored_after(recorder: FakeDaemon) -> None:
    script = RunScript(output=b"$ ", echo=True, tty=True)
    script.install(recorder)
    terminal = Terminal(recorder, "run", "-it", "busybox", "sh")
    terminal.read_until(b"$ ")
    os.write(terminal.master, b"a\x03b\r")
    terminal.read_until(b"a\x03b\r")
    during = termios.tcgetattr(terminal.slave)
    assert not during[3] & (termios.ECHO | termios.ICANON | termios.ISIG)
    os.write(terminal.master, b"\x10\x11")
    assert terminal.process.wait(10) == 0
    assert termios.tcgetattr(terminal.slave) == terminal.before
    assert bytes(script.received) == b"a\x03b\r"
    terminal.close()


def test_the_size_follows_the_terminal(recorder: FakeDaemon) -> None:
    sizes: list[str] = []

    def resized(request: Request) -> Answer:
        sizes.append(request.query)
        return Answer(200)

    script = RunScript(output=b"$ ", echo=True, tty=True)
    script.install(recorder)
    recorder.on("POST", "/containers/[^/]+/resize", resized)
    terminal = Terminal(recorder, "run", "-it", "busybox", "sh")
    terminal.read_until(b"$ ")
    os.write(terminal.master, b"x")
    terminal.read_until(b"x")
    assert sizes == ["h=33&w=101"]
    assert recorder.find("POST", "/containers/create").json["HostConfig"]["ConsoleSize"] == [33, 101]
    termios.tcsetwinsize(terminal.slave, (10, 20))
    os.kill(terminal.process.pid, signal.SIGWINCH)
    os.write(terminal.master, b"y")
    terminal.read_until(b"y")
    os.write(terminal.master, b"\x10\x11")
    terminal.process.wait(10)
    assert sizes[-1] == "h=10&w=20"
    terminal.close()


def test_a_terminal_is_restored_when_exec_is_killed(recorder: FakeDaemon) -> None:
    def stream(connection: "object") -> None:
        connection.sendall(b"$ ")  # type: ignore[attr-defined]
        connection.recv(1)  # type: ignore[attr-defined]

    recorder.on("POST", "/containers/c/exec", Answer(201, {"Id": EXEC_ID}))
    recorder.on("POST", f"/exec/{EXEC_ID}/start", Answer(stream=stream))
    recorder.on("POST", f"/exec/{EXEC_ID}/resize", Answer(200))
    terminal = Terminal(recorder, "exec", "-it", "c", "sh")
    terminal.read_until(b"$ ")
    os.kill(terminal.process.pid, signal.SIGTERM)
    assert terminal.process.wait(10) == -signal.SIGTERM
    assert termios.tcgetattr(terminal.slave) == terminal.before
    terminal.close()


def test_detaching_from_attach_says_so(recorder: FakeDaemon) -> None:
    script = RunScript(output=b"$ ", echo=True, tty=True)
    script.install(recorder)
    recorder.on("POST", "/containers/[^/]+/attach", _immediately(script))
    terminal = Terminal(recorder, "attach", "--detach-keys", "ctrl-x,x", "c")
    terminal.read_until(b"$ ")
    os.write(terminal.master, b"\x18x")
    assert terminal.process.wait(10) == 1
    assert b"read escape sequence" in os.read(terminal.master, 4096)
    terminal.close()


def _immediately(script: RunScript) -> Answer:
    def stream(connection: "object") -> None:
        connection.sendall(script.output)  # type: ignore[attr-defined]
        connection.recv(1)  # type: ignore[attr-defined]

    return Answer(stream=stream, content_type="application/vnd.docker.raw-stream")


def test_ps_prints_dockers_table(recorder: FakeDaemon) -> None:
    container = {
        "Id": CONTAINER_ID,
        "Names": ["/web"],
        "Image": "busybox",
        "ImageID": "sha256:" + "a" * 64,
        "Command": "sleep 1000",
        "Created": 0,
        "Ports": [],
        "State": "running",
        "Status": "Up 2 minutes",
    }
    recorder.on("GET", "/containers/json", Answer(200, [container]))
    done = proa(recorder, "ps", "-a", "--filter", "name=web", "--filter", "status=running")
    header, row, end = done.stdout.decode().split("\n")
    assert header == "CONTAINER ID   IMAGE     COMMAND        CREATED        STATUS         PORTS     NAMES"
    assert row.startswith('cccccccccccc   busybox   "sleep 1000"   ')
    assert row.endswith("Up 2 minutes             web")
    assert end == ""
    assert recorder.find("GET", "/containers/json").query == (
        "all=1&filters=%7B%22name%22%3A%7B%22web%22%3Atrue%7D%2C%22status%22%3A%7B%22running%22%3Atrue%7D%7D"
    )


def test_stop_asks_for_all_at_once_and_prints_in_order(recorder: FakeDaemon) -> None:
    recorder.on("POST", "/containers/(a|c)/stop", Answer(204))
    recorder.on("POST", "/containers/b/stop", Answer(404, {"message": "No such container: b"}))
    done = proa(recorder, "stop", "-t", "0", "a", "b", "c")
    assert (done.returncode, done.stdout) == (1, b"a\nc\n")
    assert done.stderr == b"Error response from daemon: No such container: b\n"
    assert {request.query for request in recorder.requests} == {"t=0"}


def test_load_streams_its_input(recorder: FakeDaemon) -> None:
    recorder.on("POST", "/images/load", Answer(200, b'{"stream":"Loaded image: a:b\\n"}\n'))
    data = os.urandom(1_000_000)
    done = proa(recorder, "load", stdin=data)
    assert done.stdout == b"Loaded image: a:b\n"
    assert recorder.find("POST", "/images/load").body == data


def test_save_leaves_no_half_of_a_file(recorder: FakeDaemon, tmp_path: Path) -> None:
    recorder.on("GET", "/images/busybox/get", Answer(404, {"message": "No such image"}))
    target = tmp_path / "out.tar"
    assert proa(recorder, "save", "-o", str(target), "busybox").returncode == 1
    assert not list(tmp_path.glob("out.tar*"))
    recorder.on("GET", "/images/busybox/get", Answer(200, b"tar", content_type="application/x-tar"))
    assert proa(recorder, "save", "-o", str(target), "busybox").returncode == 0
    assert target.read_bytes() == b"tar"


def test_inspect_finds_what_has_the_name(recorder: FakeDaemon) -> None:
    recorder.on("GET", "/containers/x/json", Answer(404, {"message": "No such container: x"}))
    recorder.on("GET", "/images/x/json", Answer(200, {"Id": "sha256:1", "RepoTags": ["x:latest"]}))
    done = proa(recorder, "inspect", "-f", "{{.Id}} {{index .RepoTags 0}}", "x")
    assert done.stdout == b"sha256:1 x:latest\n"


def test_inspect_prints_what_it_found_before_it_complains(recorder: FakeDaemon) -> None:
    recorder.on("GET", ".*/a(/json)?", Answer(200, {"Id": "1"}))
    recorder.on("GET", ".*/b(/json)?", Answer(404, {"message": "none"}))
    done = proa(recorder, "inspect", "a", "b")
    assert done.returncode == 1
    assert done.stdout == b'[\n    {\n        "Id": "1"\n    }\n]\n'
    assert done.stderr == b"Error: No such object: b\n"
