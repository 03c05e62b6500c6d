"""What `proa` says to a command line that cannot be, and its exit code, held against the real docker CLI."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from docker_version import DOCKER, needs_docker_28

PYTHON = Path(__file__).parents[2] / "python"

pytestmark = needs_docker_28

# Docker's own name in these phrases is part of the words that clients match on.
KEPT = (
    "docs.docker.com",
    "Dockerfile",
    "Docker daemon",
    "docker daemon",
    "docker endpoint",
    ".docker",
    "docker.sock",
)

CASES = """
run --x
ps --x
run -Z
run
ps a
start
nosuch
container nosuch
run -m abc x
run --cpu-shares=q x
run --name
run -p
rename a
rename a b c
run --rm=maybe x
run --memory-swappiness 400 x
run -e =x x
run --attach foo x
ps
--x
-H
run -it --rm x
exec c
logs a b
stop -t x
run --pull foo x
run -d -a stdout x
run --restart always --rm x
run --network a=1 x
run --ulimit x x
inspect
--log-level foo ps
-H foo://bar ps
-H tcp://127.0.0.1:1 ps
-c nosuch ps
run --help=false
run --cpus x y
run --mount x y
run --health-interval 5 x
run --blkio-weight 70000 x
run --stop-timeout 1.5 x
run -p abc x
run -p 1:2:3:4 x
run -p 80-90:80-85 x
run --expose abc x
run --env-file /nonexistent x
run --label-file /nonexistent x
run --security-opt seccomp=/nonexistent x
run --security-opt foo x
run --storage-opt x x
run --log-driver none --log-opt a=b x
run --restart :3 x
run --restart on-failure:x x
run --mac-address zz x
run --network-alias a x
run --network a --network a x
run --network a --network host x
run --ulimit nofile=5:3 x
run --ulimit nofile=x x
run --ulimit nofile=1:2:3 x
run --ulimit foo=1 x
run --mount type=bind,src=/a,dst=/b,volume-nocopy x
run --mount type=tmpfs,tmpfs-size=x x
run --mount 'type=bind, src=/a' x
run --mount type=bind,foo=bar x
run --mount '' x
run --mount readonly=x x
run --mount src= x
run --gpus x x
run --gpus count=1,count=2 x
run --gpus foo=1 x
run --sysctl foo=1 x
run --dns x x
run --dns-search '!!' x
run --add-host a x
run --add-host a:b x
run --link a:b:c x
run --device-read-bps x x
run --device-read-bps /dev/a:z x
run --device-read-iops /dev/a:z x
run --blkio-weight-device /dev/a:5 x
run --device-cgroup-rule x x
run -l '=x' x
run -l 'a b=x' x
run --cpus 1.0000000001 x
run -m -1 x
run -m 1xb x
run -m 1kbb x
run -m 1z x
run --memory '' x
run --health-timeout=-1s x
run --no-healthcheck --health-cmd x x
run -h
run --
run ---x
run --=x
run -i=foo x
run --oom-score-adj 99999999999999999999 x
run --pids-limit 0x x
run --pid foo x
run --uts foo x
run --userns foo x
run --cgroupns foo x
run --platform a/b/c/d x
run --ip x x
run -v v1: x
run -v :/x x
run -v v1::ro x
run -v a:b:c:d x
run -v a::b x
run -v vol:/b:ro:x x
run -v vol:/b:: x
run -v vol::/b x
network create --gateway 1.2.3.4 n
network create --subnet 10.0.0.0/16 --ip-range 10.1.0.0/24 n
network create --subnet 10.0.0.0/16 --gateway 10.1.0.1 n
network create --subnet 10.0.0.0/16 --gateway 10.0.0.1 --gateway 10.0.0.2 n
network create --subnet 10.0.0.0/16 --ip-range 10.0.1.0/24 --ip-range 10.0.2.0/24 n
network create --subnet 10.0.0.0/16 --subnet 10.1.0.0/16 --gateway 10.0.0.1 --gateway 10.0.0.2 n
network create --subnet 10.0.0.0/16 --aux-address a=10.1.0.1 n
network create --subnet 10.0.0.0/16 --subnet 10.0.1.0/24 n
volume create --name v v
ps --filter x
ps --last x
tag a B
tag a
save
wait
port
top
update x
update --memory x y
inspect --type foo x
inspect -f '{{' x
inspect -f '{{foo}}' x
ps --format '{{'
ps --format '{{foo}}'
rm
rmi
image foo
image --x
history a b
pull A
pull a:
kill
attach a b
run --volume '' x
run UPPER
run 'a b'
create
run -ti
rename '' b
start -a a b
run -m1g -m
run -e
commit
export
import
import /nonexistent
load -i /nonexistent
""".strip().splitlines()

HELP = """
exec
ps
stop
kill
restart
pause
rename
wait
rm
logs
attach
top
stats
update
inspect
port
diff
rmi
tag
history
load
save
import
pull
events
info
version
container
image
network
container prune
image prune
system prune
network ls
network create
network connect
image inspect
commit
export
""".strip().splitlines()


def outcome(command: list[str], home: Path) -> tuple[int, str]:
    """(exit code, everything it printed)."""
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(PYTHON)}
    if "-H" not in command and "-c" not in command:
        env["DOCKER_HOST"] = "unix:///nonexistent/d.sock"
    done = subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=30, cwd=home, stdin=subprocess.DEVNULL
    )
    return done.returncode, done.stdout + done.stderr


def in_our_name(text: str) -> str:
    """Docker's text with proa's name for the program."""
    for number, phrase in enumerate(KEPT):
        text = text.replace(phrase, f"<{number}>")
    text = text.replace("docker", "proa").replace("Docker", "proa")
    for number, phrase in enumerate(KEPT):
        text = text.replace(f"<{number}>", phrase)
    return text


@pytest.mark.parametrize("line", CASES)
def test_refusal(line: str, tmp_path: Path) -> None:
    words = shlex.split(line)
    code, text = outcome([str(DOCKER), *words], tmp_path)
    if words[-1] in ("-h", "--"):
        code, text = code, ""
    ours = outcome([sys.executable, "-m", "proa.cli", *words], tmp_path)
    assert ours[0] == code
    if text:
        assert ours[1] == in_our_name(text)


@pytest.mark.parametrize("name", HELP)
def test_help(name: str, tmp_path: Path) -> None:
    _, text = outcome([str(DOCKER), *name.split(), "--help"], tmp_path)
    _, ours = outcome([sys.executable, "-m", "proa.cli", *name.split(), "--help"], tmp_path)
    assert ours == in_our_name(text)
