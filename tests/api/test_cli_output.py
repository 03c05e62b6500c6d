"""What `proa` prints of the daemon's answers, held against what the real docker CLI prints of the same."""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docker_version import DOCKER, needs_docker_28
from fake_daemon import Answer, FakeDaemon, frame

PYTHON = Path(__file__).parents[2] / "python"

pytestmark = needs_docker_28

NOW = int(time.time())

CONTAINERS: list[dict[str, Any]] = [
    {
        "Id": "0123456789abcdef" * 4,
        "Names": ["/web", "/other/alias"],
        "Image": "docker.io/library/nginx:1.25",
        "ImageID": "sha256:" + "a" * 64,
        "Command": "nginx -g 'daemon off; and a long tail'",
        "Created": NOW - 7200,
        "Ports": [
            {"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
            {"IP": "::", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
            {"PrivatePort": 443, "Type": "tcp"},
            {"PrivatePort": 444, "Type": "tcp"},
            {"IP": "127.0.0.1", "PrivatePort": 90, "PublicPort": 90, "Type": "udp"},
        ],
        "Labels": {"b": "2", "a": "1", "com.example.some-label": "x y"},
        "State": "running",
        "Status": "Up 2 hours",
        "HostConfig": {"NetworkMode": "bridge"},
        "NetworkSettings": {"Networks": {"bridge": {"NetworkID": "n"}}},
        "Mounts": [
            {"Type": "volume", "Name": "f" * 64, "Source": "", "Destination": "/v", "Driver": "local"},
            {"Type": "bind", "Source": "/a/long/path/on/the/host", "Destination": "/h"},
        ],
        "SizeRw": 1234567,
        "SizeRootFs": 98765432,
    },
    {
        "Id": "f" * 64,
        "Names": ["/sleepy_turing"],
        "Image": "sha256:" + "a" * 64,
        "ImageID": "sha256:" + "a" * 64,
        "Command": "/bin/sh",
        "Created": NOW - 5,
        "Ports": [],
        "Labels": {},
        "State": "exited",
        "Status": "Exited (0) 3 seconds ago",
        "NetworkSettings": {"Networks": {}},
        "Mounts": [],
    },
]

IMAGES: list[dict[str, Any]] = [
    {
        "Id": "sha256:" + "1" * 64,
        "ParentId": "",
        "RepoTags": ["busybox:latest", "docker.io/library/busybox:1.36"],
        "RepoDigests": ["busybox@sha256:" + "d" * 64],
        "Created": NOW - 86400 * 20,
        "Size": 4261550,
        "SharedSize": -1,
        "Containers": -1,
        "Labels": None,
    },
    {
        "Id": "sha256:" + "2" * 64,
        "ParentId": "",
        "RepoTags": [],
        "RepoDigests": [],
        "Created": NOW - 86400 * 400,
        "Size": 999,
        "SharedSize": 5,
        "Containers": 2,
        "Labels": {},
    },
    {
        "Id": "sha256:" + "3" * 64,
        "ParentId": "",
        "RepoTags": ["registry.example.com:5000/team/app:v1"],
        "RepoDigests": [],
        "Created": NOW - 100,
        "Size": 1500000000,
        "SharedSize": -1,
        "Containers": -1,
        "Labels": {},
    },
]

HISTORY: list[dict[str, Any]] = [
    {
        "Id": "sha256:" + "1" * 64,
        "Created": NOW - 86400,
        "CreatedBy": 'CMD\t["sh"] and some more words to make it longer than fits',
        "Size": 0,
        "Comment": "buildkit",
        "Tags": ["a:b"],
    },
    {"Id": "<missing>", "Created": 0, "CreatedBy": "ADD", "Size": 4261550, "Comment": "", "Tags": None},
]

NETWORKS: list[dict[str, Any]] = [
    {
        "Name": name,
        "Id": digit * 64,
        "Created": "2026-01-02T03:04:05.123456789Z",
        "Scope": "local",
        "Driver": name,
        "EnableIPv4": True,
        "EnableIPv6": False,
        "Internal": False,
        "Labels": {"x": "y"},
    }
    for name, digit in (("none", "1"), ("bridge", "2"), ("host", "3"))
]

VOLUMES: list[dict[str, Any]] = [
    {
        "Name": "data",
        "Driver": "local",
        "Mountpoint": "/v/data",
        "Labels": {"a": "b"},
        "Scope": "local",
        "Options": None,
    },
    {
        "Name": "b" * 64,
        "Driver": "local",
        "Mountpoint": "/v/b",
        "Labels": None,
        "Scope": "local",
        "Options": None,
    },
]

INSPECTED: dict[str, Any] = {
    "Id": "0123456789abcdef" * 4,
    "Created": "2026-01-02T03:04:05.123456789Z",
    "Path": "nginx",
    "Args": ["-g", "daemon off;"],
    "State": {
        "Status": "running",
        "Running": True,
        "Paused": False,
        "Restarting": False,
        "OOMKilled": False,
        "Dead": False,
        "Pid": 42,
        "ExitCode": 0,
        "Error": "",
        "StartedAt": "2026-01-02T03:04:05.5Z",
        "FinishedAt": "0001-01-01T00:00:00Z",
    },
    "Name": "/web",
    "RestartCount": 0,
    "HostConfig": {
        "Binds": None,
        "NetworkMode": "bridge",
        "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
        "Memory": 1048576,
        "PortBindings": {"80/tcp": [{"HostIp": "", "HostPort": "8080"}]},
        "CapAdd": None,
    },
    "Mounts": [],
    "Config": {
        "Hostname": "h",
        "Env": ["A=1", "B=<&>"],
        "Cmd": None,
        "Image": "nginx",
        "Labels": {"a": "1", "b.c": "2"},
        "Tty": False,
        "Entrypoint": ["nginx"],
    },
    "NetworkSettings": {
        "Ports": {
            "80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}, {"HostIp": "::", "HostPort": "8080"}],
            "9/udp": None,
        },
        "Networks": {"bridge": {"IPAddress": "172.17.0.2", "Gateway": "172.17.0.1", "Aliases": None}},
    },
}

STATS: dict[str, Any] = {
    "name": "/web",
    "id": "0123456789abcdef" * 4,
    "read": "2026-01-02T03:04:05Z",
    "preread": "2026-01-02T03:04:04Z",
    "pids_stats": {"current": 7},
    "blkio_stats": {
        "io_service_bytes_recursive": [
            {"major": 8, "minor": 0, "op": "read", "value": 4096},
            {"op": "Write", "value": 1},
        ]
    },
    "cpu_stats": {"cpu_usage": {"total_usage": 2500}, "system_cpu_usage": 11000, "online_cpus": 4},
    "precpu_stats": {"cpu_usage": {"total_usage": 1000}, "system_cpu_usage": 1000},
    "memory_stats": {"usage": 10485760, "stats": {"inactive_file": 1048576}, "limit": 2055208960},
    "networks": {"eth0": {"rx_bytes": 1234, "tx_bytes": 56789}},
}

CASES = r"""
ps
ps -a --no-trunc
ps -q
ps -aq --no-trunc
ps -s
ps --format json
ps --format '{{.ID}}: {{.Names}} {{.Image}} {{.Ports}}'
ps --format 'table {{.Names}}\t{{.Status}}\t{{.Size}}'
ps --format 'table {{.Label "com.example.some-label"}}\t{{.Labels}}\t{{.Mounts}}\t{{.LocalVolumes}}'
ps --format '{{.Networks}} {{.State}} {{.CreatedAt}} {{.RunningFor}} {{.Command}}'
ps --format 'table {{upper .Names}}\t{{json .Image}}'
ps --format '{{range split .Names ","}}{{println .}}{{end}}'
ps -a --format raw
ps -aq --format raw
ps -aqs --format '{{.Names}}'
ps -as --format raw
ps --format '{{js .Command}}'
images
images -a --no-trunc
images -q
images --digests
images --format json
images --format '{{.Repository}}:{{.Tag}} {{.ID}} {{.Size}} {{.CreatedSince}}'
images --format 'table {{.ID}}\t{{.Repository}}'
images --digests --format 'table {{.ID}}'
images --format raw
images -q --format raw
images --digests --format raw
images --format '{{.Nothing}}'
image ls busybox
history x
history --no-trunc x
history -q x
history -H=false x
history --format '{{.CreatedBy}}|{{.Comment}}' x
network ls
network ls -q
network ls --no-trunc
network ls --format '{{.Name}} {{.IPv4}} {{.IPv6}} {{.Internal}} {{.Labels}} {{.Driver}} {{.Scope}}'
network ls --format '{{.CreatedAt}} {{.ID}}'
network ls --format raw
network ls -q --format raw
volume ls
volume ls -q
volume ls --format '{{.Name}} {{.Mountpoint}} {{.Labels}} {{.Scope}} {{.Links}} {{.Size}}'
volume ls --format raw
volume ls -q --format raw
volume ls --format '{{.Nothing}}'
inspect x
inspect x x
inspect -f '{{.State.Status}} {{.Name}} {{.State.Pid}}' x
inspect -f '{{json .Config.Env}}' x
inspect -f '{{.Config.Env}} {{.Config.Labels}} {{.HostConfig.Memory}}' x
inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' x
inspect -f '{{range $p, $c := .NetworkSettings.Ports}}{{$p}}={{range $c}}{{.HostPort}},{{end}} {{end}}' x
inspect -f '{{(index (index .NetworkSettings.Ports "80/tcp") 0).HostPort}}' x
inspect -f '{{if .State.Health}}{{.State.Health.Status}}{{else}}none{{end}}' x
inspect -f '{{.Config.Cmd}} {{.HostConfig.Binds}}' x
inspect -f '{{index .Config.Labels "b.c"}}{{index .Config.Labels "none"}}' x
inspect -f '{{.Config.Labels.a}}' x
inspect -f '{{.NoSuch}}' x
inspect -f '{{.State.NoSuch}}' x
inspect -f '{{len .Args}} {{printf "%s-%d" .Path .State.Pid}}' x
inspect -f '{{.State.StartedAt}} {{.Created}}' x
inspect -f json x
inspect -f '{{.ID}} {{.Name}}' x
image inspect -f '{{.ID}} {{.Size}}' x
inspect nothing
container inspect x nothing
image inspect x
port x
port x 80
port x 80/tcp
port x 9/udp
top x
logs x
stats --no-stream x
stats --no-stream --format '{{.Name}} {{.CPUPerc}} {{.MemPerc}}' x
stats --no-stream --format json x
diff x
wait x
rm x nothing
rm -f nothing
rmi x
tag x y
rename x y
kill -s HUP x
stop x
pause x
update --memory 10m x
volume create v
volume rm data
network rm n
network create --subnet 10.0.0.0/8 --gateway 10.0.0.1 --label a=b -o k=v n
container prune -f
image prune -af
volume prune -f
network prune -f
commit x y:z
events --since 1 --until 2
events --format '{{.Type}} {{.Action}} {{.Actor.ID}} {{.Actor.Attributes.name}}' --since 1 --until 2
events --format json --since 1 --until 2
search
""".strip().splitlines()[:-1]


def install(server: FakeDaemon) -> None:
    """Teach the server its answers."""
    empty = {"SpaceReclaimed": 0}
    missing = Answer(404, {"message": "No such object: nothing"})
    get: dict[str, Any] = {
        "/containers/json": CONTAINERS,
        "/images/json": IMAGES,
        "/images/x/history": HISTORY,
        "/networks": NETWORKS,
        "/volumes": {"Volumes": VOLUMES, "Warnings": None},
        "/containers/x/json": INSPECTED,
        "/images/x/json": {"Id": "sha256:1", "RepoTags": ["x:latest"], "Size": 5},
        "/containers/x/top": {"Titles": ["PID", "CMD"], "Processes": [["1", "sleep 1000"], ["23", "sh"]]},
        "/containers/x/stats": STATS,
        "/containers/x/changes": [
            {"Kind": 0, "Path": "/a"},
            {"Kind": 1, "Path": "/b"},
            {"Kind": 2, "Path": "/c"},
        ],
        "/info": {"Swarm": {"LocalNodeState": "inactive"}},
    }
    for path, body in get.items():
        server.on("GET", path, Answer(200, body))
    kind = "application/vnd.docker.multiplexed-stream"
    server.on(
        "GET",
        "/containers/(x|0123.*)/logs",
        Answer(200, frame(1, b"out\n") + frame(2, b"err\n"), content_type=kind),
    )
    server.on("GET", "/events", Answer(200, EVENTS))
    for path in ("start", "stop", "kill", "pause", "rename"):
        server.on("POST", f"/containers/x/{path}", Answer(204))
    server.on("POST", "/containers/x/wait", Answer(200, {"StatusCode": 7}))
    server.on("POST", "/containers/x/update", Answer(200, {"Warnings": ["careful"]}))
    server.on("DELETE", "/(containers/x|volumes/data|networks/n)", Answer(204))
    server.on("DELETE", "/images/x", Answer(200, [{"Untagged": "x:latest"}, {"Deleted": "sha256:1"}]))
    server.on("POST", "/images/x/tag", Answer(201))
    server.on("POST", "/volumes/create", Answer(201, VOLUMES[0]))
    server.on("POST", "/networks/create", Answer(201, {"Id": "n" * 64, "Warning": ""}))
    server.on(
        "POST",
        "/containers/prune",
        Answer(200, {"ContainersDeleted": ["a", "b"], "SpaceReclaimed": 12345678}),
    )
    deleted = [{"Untagged": "a:b"}, {"Deleted": "sha256:1"}]
    server.on("POST", "/images/prune", Answer(200, {"ImagesDeleted": deleted, "SpaceReclaimed": 5}))
    server.on("POST", "/volumes/prune", Answer(200, {"VolumesDeleted": ["v"], **empty}))
    server.on("POST", "/networks/prune", Answer(200, {"NetworksDeleted": ["n"]}))
    server.on("POST", "/commit", Answer(201, {"Id": "sha256:5"}))
    for method, path in (("GET", ".*/nothing(/json)?"), ("DELETE", ".*/nothing")):
        server.on(method, path, missing)


EVENTS = b"".join(
    b'{"Type":"container","Action":"%s","Actor":{"ID":"abc","Attributes":{"name":"web","image":"busybox"}},'
    b'"scope":"local","time":1700000000,"timeNano":17000000000000000%02d}\n' % (action, number)
    for number, action in enumerate((b"create", b"start"))
)


@pytest.fixture(scope="module")
def recorder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeDaemon]:
    """One server for all: its answers do not change."""
    server = FakeDaemon(tmp_path_factory.mktemp("d") / "d.sock")
    install(server)
    yield server
    server.close()


def outcome(command: list[str], recorder: FakeDaemon) -> tuple[int, str, str, list[tuple[str, str, Any]]]:
    """(exit code, stdout, stderr, what was asked for)."""
    env = {"PATH": os.environ["PATH"], "HOME": str(recorder.socket_path.parent), "PYTHONPATH": str(PYTHON)}
    env["DOCKER_HOST"] = f"unix://{recorder.socket_path}"
    recorder.requests.clear()
    done = subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL
    )
    writes = [
        (request.method, request.path, request.query)
        for request in recorder.requests
        if request.method != "HEAD"
    ]
    return done.returncode, done.stdout, done.stderr, sorted(item for item in writes if item[0] != "GET")


@pytest.mark.parametrize("line", CASES)
def test_prints_the_same(line: str, recorder: FakeDaemon) -> None:
    words = shlex.split(line)
    for _ in range(2):  # a second may pass between the two, and with it what is shown of an age
        expected = outcome([str(DOCKER), *words], recorder)
        found = outcome([sys.executable, "-m", "proa.cli", *words], recorder)
        if found == expected:
            break
    assert found == expected
