"""The unmodified docker CLI against proad: the command lines people type, and what they read back."""

import json
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from docker_version import needs_docker_28
from instance import Instance, eventually

pytestmark = pytest.mark.skipif(shutil.which("docker") is None, reason="no docker CLI on the PATH")


def docker(daemon: Instance, *words: str, code: int = 0, **options: object) -> str:
    """stdout of a docker command that must end with `code`."""
    done = daemon.run(*words, **options)
    assert done.returncode == code, (words, done.stdout, done.stderr)
    return done.stdout


@pytest.fixture
def name(daemon: Instance) -> Iterator[str]:
    """A free container name; the container is removed afterwards."""
    chosen = f"t-{uuid4().hex[:8]}"
    yield chosen
    daemon.run("rm", "-f", "-v", chosen)


@needs_docker_28
def test_version_speaks_to_the_server(daemon: Instance) -> None:
    found = json.loads(docker(daemon, "version", "--format", "json"))
    assert found["Server"]["ApiVersion"] == "1.51"
    assert found["Server"]["Os"] == "linux"


@needs_docker_28
def test_info(daemon: Instance) -> None:
    found = json.loads(docker(daemon, "info", "--format", "json"))
    assert found["Images"] >= 1
    assert found["OSType"] == "linux"
    assert found["Driver"]


def test_run_prints_and_hands_on_the_exit_code(daemon: Instance) -> None:
    assert docker(daemon, "run", "--rm", "busybox", "echo", "hello") == "hello\n"
    docker(daemon, "run", "--rm", "busybox", "sh", "-c", "exit 42", code=42)


def test_run_keeps_the_streams_apart(daemon: Instance) -> None:
    done = daemon.run("run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2")
    assert (done.stdout, done.stderr) == ("out\n", "err\n")


def test_run_takes_stdin_of_any_size(daemon: Instance) -> None:
    text = "0123456789abcdef" * (1 << 18)
    assert docker(daemon, "run", "--rm", "-i", "busybox", "wc", "-c", input=text).strip() == str(len(text))
    assert docker(daemon, "run", "--rm", "-i", "busybox", "cat", input=text) == text


def test_run_does_not_wait_for_a_stdin_nobody_reads(daemon: Instance) -> None:
    with subprocess.Popen(["sleep", "30"], stdout=subprocess.PIPE) as endless:
        done = daemon.run("run", "--rm", "-i", "busybox", "true", input=None, stdin=endless.stdout)
        endless.kill()
    assert done.returncode == 0


def test_a_tty_is_a_tty(daemon: Instance) -> None:
    command = [
        "script",
        "-qec",
        "docker run --rm -it busybox sh -c 'test -t 0 && test -t 1 && stty size 2>/dev/null; tty'",
    ]
    if shutil.which("script") is None:
        pytest.skip("no script(1) to give a terminal")
    import os

    import peers

    assert daemon.engine is not None
    environment = {**os.environ, **peers.docker_cli_environment(daemon.engine, daemon.root)}
    done = subprocess.run(
        [*command, "/dev/null"], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert "/dev/" in done.stdout
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("run", "--rm", "busybox", "no-such-program"), 127, "executable file not found in $PATH"),
        (("run", "--rm", "busybox", "/etc"), 126, "permission denied"),
        (
            ("run", "--rm", "--user", "nobody-there", "busybox", "true"),
            125,
            "unable to find user nobody-there",
        ),
        (("run", "--rm", "--memory", "1m", "busybox", "true"), 125, "Minimum memory limit allowed is 6MB"),
        (
            ("run", "--rm", "--mount", "type=bind,src=/no/such,dst=/x", "busybox", "true"),
            125,
            "bind source path does not exist",
        ),
        (("run", "--rm", "--cap-add", "NOT_A_CAP", "busybox", "true"), 125, "NOT_A_CAP"),
        (
            ("run", "--rm", "--pull", "never", "no-such-image", "true"),
            125,
            "No such image: no-such-image:latest",
        ),
        (("inspect", "nothing-here"), 1, "No such object: nothing-here"),
        (("start", "nothing-here"), 1, "No such container: nothing-here"),
    ],
)
def test_bad_input_gets_dockers_words_and_code(
    daemon: Instance, words: tuple[str, ...], code: int, text: str
) -> None:
    done = daemon.run(*words)
    assert done.returncode == code, done.stderr
    assert text.lower() in done.stderr.lower()


def test_failed_runs_leave_nothing_behind(daemon: Instance) -> None:
    before = docker(daemon, "ps", "-aq").split()
    daemon.run("run", "--rm", "busybox", "no-such-program")
    daemon.run("run", "--rm", "--user", "nobody-there", "busybox", "true")
    assert eventually(lambda: docker(daemon, "ps", "-aq").split() == before)


@needs_docker_28
def test_ps_inspect_stop_rm(daemon: Instance, name: str) -> None:
    container = docker(
        daemon, "run", "-d", "--name", name, "--label", "k=v", "busybox", "sleep", "60"
    ).strip()
    assert docker(daemon, "ps", "--filter", "label=k=v", "--no-trunc", "-q").split() == [container]
    line = docker(daemon, "ps", "--filter", f"name={name}", "--format", "{{.Image}} {{.Names}} {{.Status}}")
    assert line.startswith(f"busybox {name} Up")
    found = json.loads(docker(daemon, "inspect", name))[0]
    assert found["Id"] == container
    assert found["State"]["Running"] is True
    assert found["Config"]["Cmd"] == ["sleep", "60"]
    assert found["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
    docker(daemon, "stop", name)
    state = json.loads(docker(daemon, "inspect", name))[0]["State"]
    assert (state["Status"], state["ExitCode"]) == ("exited", 137)
    assert docker(daemon, "rm", name).strip() == name
    docker(daemon, "inspect", name, code=1)


def test_a_name_in_use_is_a_conflict(daemon: Instance, name: str) -> None:
    docker(daemon, "create", "--name", name, "busybox", "true")
    done = daemon.run("create", "--name", name, "busybox", "true")
    assert done.returncode == 1
    assert f'Conflict. The container name "/{name}" is already in use' in done.stderr


def test_logs(daemon: Instance, name: str) -> None:
    docker(
        daemon,
        "run",
        "--name",
        name,
        "busybox",
        "sh",
        "-c",
        "for i in 1 2 3; do echo line $i; done; echo oops >&2",
    )
    done = daemon.run("logs", name)
    assert (done.stdout, done.stderr) == ("line 1\nline 2\nline 3\n", "oops\n")
    assert (
        daemon.run("logs", "--tail", "2", name).stdout + daemon.run("logs", "--tail", "1", name).stderr
        == "line 3\noops\n"
    )
    stamped = docker(daemon, "logs", "-t", name).splitlines()[0]
    assert stamped.endswith(" line 1")
    assert stamped[:2] == "20"


def test_logs_follow_until_the_end(daemon: Instance, name: str) -> None:
    script = "for i in 1 2 3 4 5; do echo $i; sleep 0.1; done"
    docker(daemon, "run", "-d", "--name", name, "busybox", "sh", "-c", script)
    assert docker(daemon, "logs", "-f", name) == "1\n2\n3\n4\n5\n"


def test_exec(daemon: Instance, name: str) -> None:
    docker(daemon, "run", "-d", "--name", name, "-e", "A=1", "busybox", "sleep", "60")
    assert docker(daemon, "exec", "-e", "B=2", name, "sh", "-c", "echo $A $B") == "1 2\n"
    assert docker(daemon, "exec", "-i", name, "cat", input="through") == "through"
    assert (
        docker(daemon, "exec", "-w", "/tmp", "-u", "7:8", name, "sh", "-c", "pwd; id -u; id -g")
        == "/tmp\n7\n8\n"
    )
    docker(daemon, "exec", name, "sh", "-c", "exit 5", code=5)
    docker(daemon, "exec", name, "no-such-program", code=127)
    docker(daemon, "exec", "-d", name, "touch", "/tmp/made")
    assert eventually(lambda: daemon.run("exec", name, "test", "-e", "/tmp/made").returncode == 0)


def test_exec_in_a_stopped_container_is_refused(daemon: Instance, name: str) -> None:
    docker(daemon, "create", "--name", name, "busybox", "true")
    assert "is not running" in daemon.run("exec", name, "true").stderr


def test_attach_sees_what_comes_and_ends_with_the_container(daemon: Instance, name: str) -> None:
    docker(daemon, "run", "-d", "-i", "--name", name, "busybox", "sh", "-c", "read line; echo got $line")
    assert docker(daemon, "attach", name, input="something\n") == "got something\n"


def test_start_attached(daemon: Instance, name: str) -> None:
    docker(daemon, "create", "--name", name, "busybox", "sh", "-c", "echo again; exit 3")
    assert docker(daemon, "start", "-a", name, code=3) == "again\n"
    assert docker(daemon, "start", "-a", name, code=3) == "again\n"


def test_wait_kill_restart_rename(daemon: Instance, name: str) -> None:
    docker(
        daemon,
        "run",
        "-d",
        "--name",
        name,
        "busybox",
        "sh",
        "-c",
        "trap 'exit 6' TERM; echo ready; while :; do sleep 0.1; done",
    )
    docker(daemon, "restart", name)
    assert eventually(lambda: docker(daemon, "logs", name).count("ready") == 2)
    docker(daemon, "kill", "-s", "TERM", name)
    assert docker(daemon, "wait", name).strip() == "6"
    docker(daemon, "rename", name, f"{name}-new")
    assert docker(daemon, "inspect", "-f", "{{.Name}}", f"{name}-new").strip() == f"/{name}-new"
    docker(daemon, "rm", f"{name}-new")


def test_pause_top_stats_update(daemon: Instance, name: str) -> None:
    docker(daemon, "run", "-d", "--name", name, "busybox", "sleep", "60")
    assert "sleep 60" in docker(daemon, "top", name)
    docker(daemon, "pause", name)
    assert docker(daemon, "inspect", "-f", "{{.State.Status}}", name).strip() == "paused"
    docker(daemon, "unpause", name)
    line = docker(daemon, "stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}}", name)
    assert line.split() == [name, "1"]
    docker(daemon, "update", "--memory", "64m", "--memory-swap", "64m", name)
    assert docker(daemon, "inspect", "-f", "{{.HostConfig.Memory}}", name).strip() == str(64 << 20)


def test_events_in_order(daemon: Instance, name: str) -> None:
    since = f"{time.time() - 1:.9f}"
    docker(daemon, "run", "--rm", "--name", name, "busybox", "true")
    found = docker(
        daemon,
        "events",
        "--since",
        since,
        "--until",
        f"{time.time():.9f}",
        "-f",
        f"container={name}",
        "--format",
        "{{.Action}}",
    ).split()
    assert [action for action in found if action != "attach"] == ["create", "start", "die", "destroy"]


def test_save_and_load_keep_the_image(daemon: Instance, tmp_path: Path) -> None:
    before = docker(daemon, "inspect", "-f", "{{.Id}}", "busybox").strip()
    archive = tmp_path / "busybox.tar"
    docker(daemon, "tag", "busybox", "mine:v1")
    docker(daemon, "save", "-o", str(archive), "mine:v1")
    with tarfile.open(archive) as tar:
        assert "manifest.json" in tar.getnames()
    docker(daemon, "rmi", "mine:v1")
    assert "Loaded image: mine:v1" in docker(daemon, "load", "-i", str(archive))
    assert docker(daemon, "inspect", "-f", "{{.Id}}", "mine:v1").strip() == before
    assert "Untagged: mine:v1" in docker(daemon, "rmi", "mine:v1")


def test_images_and_history(daemon: Instance) -> None:
    assert "busybox" in docker(daemon, "images", "--format", "{{.Repository}}").split()
    assert docker(daemon, "history", "-q", "busybox").strip()


def test_import(daemon: Instance, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "root.tar", "w") as tar:
        tar.add(daemon.root / "tree", arcname=".")
    docker(daemon, "import", "-c", "CMD ['true']".replace("'", '"'), str(tmp_path / "root.tar"), "imported:1")
    docker(daemon, "run", "--rm", "imported:1")
    docker(daemon, "rmi", "imported:1")


def test_prune_removes_only_what_is_stopped(daemon: Instance, name: str) -> None:
    docker(daemon, "run", "-d", "--name", name, "busybox", "sleep", "60")
    stopped = docker(daemon, "create", "busybox", "true").strip()
    assert stopped in docker(daemon, "container", "prune", "-f")
    assert docker(daemon, "inspect", "-f", "{{.State.Running}}", name).strip() == "true"


def test_restart_policy(daemon: Instance, name: str) -> None:
    docker(daemon, "run", "-d", "--name", name, "--restart", "on-failure:2", "busybox", "false")
    fmt = "{{.RestartCount}} {{.State.Status}}"
    assert eventually(lambda: docker(daemon, "inspect", "-f", fmt, name).strip() == "2 exited", 20)


def test_health(daemon: Instance, name: str) -> None:
    flags = ("--health-cmd", "test -e /tmp/ok", "--health-interval", "200ms", "--health-retries", "2")
    docker(daemon, "run", "-d", "--name", name, *flags, "busybox", "sleep", "60")
    fmt = "{{.State.Health.Status}}"
    assert eventually(lambda: docker(daemon, "inspect", "-f", fmt, name).strip() == "unhealthy", 20)
    docker(daemon, "exec", name, "touch", "/tmp/ok")
    assert eventually(lambda: docker(daemon, "inspect", "-f", fmt, name).strip() == "healthy", 20)


def test_network_of_another_container(daemon: Instance, name: str) -> None:
    docker(daemon, "run", "-d", "--name", name, "busybox", "sleep", "60")
    own = docker(daemon, "exec", name, "ls", "-l", "/proc/self/ns/net").split("-> ")[1]
    shared = docker(
        daemon, "run", "--rm", "--network", f"container:{name}", "busybox", "ls", "-l", "/proc/self/ns/net"
    )
    assert shared.split("-> ")[1] == own


def test_containers_reach_each_other_over_the_bridge(daemon: Instance, name: str) -> None:
    docker(daemon, "run", "-d", "--name", name, "busybox", "sh", "-c", "echo here | busybox nc -l -p 7000")
    fmt = "{{.NetworkSettings.Networks.bridge.IPAddress}}"
    address = docker(daemon, "inspect", "-f", fmt, name).strip()
    script = f"for i in 1 2 3 4 5; do busybox nc {address} 7000 </dev/null && break; sleep 0.2; done"
    assert docker(daemon, "run", "--rm", "busybox", "sh", "-c", script) == "here\n"


def test_volumes(daemon: Instance, name: str) -> None:
    docker(daemon, "run", "--rm", "-v", f"{name}-data:/data", "busybox", "sh", "-c", "echo kept >/data/file")
    assert (
        docker(daemon, "run", "--rm", "-v", f"{name}-data:/data", "busybox", "cat", "/data/file") == "kept\n"
    )
    assert f"{name}-data" in docker(daemon, "volume", "ls", "-q").split()
    docker(daemon, "volume", "rm", f"{name}-data")


@needs_docker_28
def test_cp_both_ways(daemon: Instance, name: str, tmp_path: Path) -> None:
    (tmp_path / "tree/sub").mkdir(parents=True)
    (tmp_path / "tree/file").write_text("local")
    (tmp_path / "tree/link").symlink_to("file")
    docker(daemon, "run", "-d", "--name", name, "-v", f"{name}-v:/data", "busybox", "sleep", "100")
    docker(daemon, "cp", str(tmp_path / "tree"), f"{name}:/data")
    assert docker(daemon, "exec", name, "cat", "/data/tree/link") == "local"
    docker(daemon, "cp", f"{tmp_path}/tree/.", f"{name}:/tmp")
    assert "file" in docker(daemon, "exec", name, "ls", "/tmp")
    docker(daemon, "cp", f"{name}:/data/tree", str(tmp_path / "back"))
    assert (tmp_path / "back/link").read_text() == "local"
    docker(daemon, "cp", "-L", f"{name}:/data/tree/link", str(tmp_path / "followed"))
    assert not (tmp_path / "followed").is_symlink()
    done = daemon.run("cp", f"{name}:/nope", str(tmp_path))
    assert f"Could not find the file /nope in container {name}" in done.stderr
    docker(daemon, "stop", "-t", "0", name)
    docker(daemon, "cp", str(tmp_path / "tree/file"), f"{name}:/data/stopped")
    docker(daemon, "start", name)
    assert docker(daemon, "exec", name, "cat", "/data/stopped") == "local"


def test_diff_export_commit(daemon: Instance, name: str, tmp_path: Path) -> None:
    script = "echo x > /new; mkdir /dir; rm /bin/wc; echo >> /etc/passwd; rm -r /tmp; mkdir -m 1777 /tmp"
    docker(daemon, "run", "--name", name, "busybox", "sh", "-c", script)
    changes = docker(daemon, "diff", name).splitlines()
    assert {"A /new", "A /dir", "D /bin/wc", "C /bin", "C /etc/passwd", "C /etc"} <= set(changes)
    docker(daemon, "export", "-o", str(tmp_path / "out.tar"), name)
    with tarfile.open(tmp_path / "out.tar") as tar:
        names = tar.getnames()
    assert "new" in names
    assert "bin/wc" not in names
    docker(
        daemon,
        "commit",
        "-a",
        "me",
        "-m",
        "why",
        "-c",
        "ENV A=b",
        "-c",
        'CMD ["cat", "/new"]',
        name,
        "made:1",
    )
    found = json.loads(docker(daemon, "image", "inspect", "made:1"))[0]
    assert (found["Author"], found["Comment"], found["Config"]["Cmd"]) == ("me", "why", ["cat", "/new"])
    assert "A=b" in found["Config"]["Env"]
    assert len(found["RootFS"]["Layers"]) == 2
    assert docker(daemon, "run", "--rm", "made:1") == "x\n"
    assert docker(daemon, "run", "--rm", "made:1", "sh", "-c", "test ! -e /bin/wc && echo gone") == "gone\n"
    docker(daemon, "rmi", "made:1")


def test_commit_pauses_and_goes_on(daemon: Instance, name: str) -> None:
    docker(daemon, "run", "-d", "--name", name, "busybox", "sh", "-c", "echo 1 > /f; exec sleep 100")
    since = f"{time.time():.9f}"
    image = docker(daemon, "commit", name).strip()
    until = f"{time.time():.9f}"
    flags = ("--since", since, "--until", until, "-f", f"container={name}", "--format", "{{.Action}}")
    assert docker(daemon, "events", *flags).split() == ["pause", "unpause", "commit"]
    assert docker(daemon, "inspect", "-f", "{{.State.Status}}", name).strip() == "running"
    assert docker(daemon, "run", "--rm", image, "cat", "/f") == "1\n"
    docker(daemon, "rmi", image)


@needs_docker_28
def test_system_df_counts_layers_containers_and_volumes(daemon: Instance, name: str) -> None:
    script = "echo logged; busybox dd if=/dev/zero of=/data/f bs=1000 count=5; echo 1234 > /f"
    docker(daemon, "run", "--name", name, "-v", f"{name}-v:/data", "busybox", "sh", "-c", script)
    found = {
        row["Type"]: row
        for row in map(json.loads, docker(daemon, "system", "df", "--format", "json").splitlines())
    }
    assert set(found) == {"Images", "Containers", "Local Volumes", "Build Cache"}
    assert int(found["Containers"]["TotalCount"]) >= 1
    listed = json.loads(docker(daemon, "system", "df", "-v", "--format", "json"))
    volume = next(row for row in listed["Volumes"] if row["Name"] == f"{name}-v")
    assert (volume["Links"], volume["Size"]) == ("1", "5kB")
    image = next(row for row in listed["Images"] if row["Repository"] == "busybox")
    assert int(image["Containers"]) >= 1
    container = next(row for row in listed["Containers"] if row["Names"] == name)
    assert container["Size"] != "5B"  # with its log
    assert docker(daemon, "ps", "-as", "-f", f"name={name}", "--format", "{{.Size}}").startswith(
        "5B (virtual"
    )


def test_programs_find_what_tells_them_that_they_are_contained(daemon: Instance) -> None:
    script = "test -f /.dockerenv && readlink /etc/mtab"
    assert docker(daemon, "run", "--rm", "busybox", "sh", "-c", script) == "/proc/mounts\n"
    name = docker(daemon, "create", "busybox", "true").strip()
    assert docker(daemon, "diff", name) == ""
    docker(daemon, "rm", name)


def test_a_wait_for_one_that_rm_has_removed_already(daemon: Instance) -> None:
    name = docker(daemon, "run", "-d", "--rm", "busybox", "sh", "-c", "exit 3").strip()
    assert eventually(lambda: name not in docker(daemon, "ps", "-aq", "--no-trunc"))
    assert docker(daemon, "wait", name) == "3\n"


def test_details_of_logs(daemon: Instance, name: str) -> None:
    options = ("--log-opt", "labels=tier", "--log-opt", "env=A", "-l", "tier=front", "-e", "A=1")
    docker(daemon, "run", "--name", name, *options, "busybox", "echo", "x")
    assert docker(daemon, "logs", "--details", name) == "A=1,tier=front x\n"
    assert docker(daemon, "logs", "--details", "-t", name).split(" ", 1)[1] == "A=1,tier=front x\n"
    assert docker(daemon, "logs", name) == "x\n"


def test_version_by_the_names_of_docker_s_templates(daemon: Instance) -> None:
    fields = "{{.Client.APIVersion}} {{.Server.APIVersion}} {{.Server.MinAPIVersion}}"
    form = f"{fields}[{{{{.Server.GitCommit}}}}{{{{.Client.BuildTime}}}}]"
    assert daemon.run("version", "--format", form, cli="proa").stdout == "1.51 1.51 1.24[]\n"
    shown = json.loads(daemon.run("version", "-f", "json", cli="proa").stdout)["Client"]
    assert "APIVersion" not in shown
