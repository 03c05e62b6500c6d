"""The bodies that `proa run`/`create` sends, held against those of the real docker CLI.

Both talk to a server that records. Where docker sends a field's zero value, proa leaves it out.
"""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from docker_version import DOCKER, needs_docker_28
from fake_daemon import CONTAINER_ID, Answer, FakeDaemon

PYTHON = Path(__file__).parents[2] / "python"

pytestmark = needs_docker_28

# What docker sends when nothing was asked for, and dockerd takes as such.
DEFAULTS = {
    "ConsoleSize": [0, 0],
    "MemorySwappiness": -1,
    "NetworkMode": "default",
    "RestartPolicy": {"Name": "no"},
}

# Fields whose empty value is not the same as none.
MEANINGFUL = {"MaskedPaths", "ReadonlyPaths", "Init", "StopTimeout", "Entrypoint", "Test"}

CASES = [
    "busybox",
    "busybox true",
    "--rm busybox sh -c 'echo hi; exit 3'",
    "-d busybox sleep 100",
    "-i busybox cat",
    "-a stdin -a stderr busybox cat",
    "-a STDOUT busybox",
    "-di busybox cat",
    "--name web -h host --domainname dom -u 1000:1000 -w /srv busybox",
    "-e A=1 -e B= -e INHERITED -e NOTTHERE busybox env",
    "--env-file FILES/env -e A=over busybox",
    "-l a=b -l c --label d= busybox",
    "--label-file FILES/labels -l x=y busybox",
    "-v /host:/in -v data:/data:ro -v /anon -v ./rel:/rel busybox",
    "-v /a:/b:ro,z --volumes-from other:ro --volume-driver local busybox",
    "--mount type=bind,src=/a,dst=/b,readonly --mount type=tmpfs,dst=/t,tmpfs-size=64m busybox",
    "--mount type=tmpfs,dst=/t,tmpfs-mode=1777 busybox",
    "--mount type=volume,src=v,dst=/v,volume-nocopy,volume-label=a=b busybox",
    "--mount type=volume,src=v,dst=/v,volume-driver=local,volume-opt=o=x busybox",
    "--mount type=bind,src=/a,dst=/b,bind-propagation=rslave,bind-recursive=disabled busybox",
    "--mount type=bind,src=/a,dst=/b,ro,bind-propagation=rprivate,bind-recursive=readonly busybox",
    "--mount type=image,src=alpine,dst=/i,image-subpath=etc busybox",
    "--mount src=v,target=/v,volume-subpath=sub busybox",
    "--tmpfs /run --tmpfs /tmp:size=64m,exec busybox",
    "-p 80:80 -p 127.0.0.1:8080:80/tcp -p 53:53/udp -p 9000 busybox",
    "-p80:80 -p=81:81 --publish=82:82 busybox",
    "-p 8000-8002:9000-9002 -p 7000-7010:7 -p [::1]:90:90 busybox",
    "-p published=1,target=2,protocol=udp -P --expose 100 --expose 200-202/udp busybox",
    "-m 512m --memory-swap 1g --memory-reservation 256MiB busybox",
    "--memory-swappiness 10 --shm-size 1.5g busybox",
    "--memory-swap -1 --kernel-memory 4m --oom-kill-disable --oom-score-adj 500 busybox",
    "--cpus 1.5 --cpu-shares 512 --cpuset-cpus 0-1 --cpuset-mems 0 busybox",
    "-c 7 --cpu-period 100000 --cpu-quota 50000 --cpu-rt-period 10 --cpu-rt-runtime 5 busybox",
    "--pids-limit 100 --blkio-weight 300 --blkio-weight-device /dev/sda:200 busybox",
    "--pids-limit -1 --pids-limit=-1 busybox",
    "--device-read-bps /dev/sda:1mb --device-write-bps /dev/sda:2mb busybox",
    "--device-read-iops /dev/sda:10 busybox",
    "--device-write-iops /dev/sda:20 --device-cgroup-rule 'c 1:3 rwm' busybox",
    "--device /dev/null --device /dev/zero:/dev/zz --device /dev/full:/dev/ff:r busybox",
    "--device /dev/null:rw busybox",
    "--device vendor.com/class=name busybox",
    "--gpus all busybox",
    "--gpus 2 busybox",
    "--gpus 'device=0,driver=nvidia' busybox",
    '--gpus \'"device=0,1","capabilities=utility,compute"\' busybox',
    "--ulimit nofile=1024:2048 --ulimit core=0 --ulimit nproc=-1 busybox",
    "--cap-add NET_ADMIN --cap-add cap_chown --cap-drop ALL --privileged --read-only busybox",
    "--security-opt no-new-privileges --security-opt seccomp=unconfined --security-opt label:disable busybox",
    "--security-opt seccomp=FILES/seccomp.json busybox",
    "--security-opt systempaths=unconfined --security-opt apparmor=none busybox",
    "--sysctl net.core.somaxconn=1024 --sysctl kernel.shmmax=1 busybox",
    "--restart always busybox",
    "--restart on-failure:3 busybox",
    "--restart unless-stopped busybox",
    "--restart no --rm busybox",
    "--stop-signal TERM --stop-timeout 5 busybox",
    "--stop-timeout 0 busybox",
    "--init busybox",
    "--init=false busybox",
    "--entrypoint /bin/sh busybox -c true",
    "--entrypoint= busybox true",
    "--health-cmd 'curl x' --health-interval 5s --health-retries 3 --health-timeout 1m30s busybox",
    "--health-start-period 10s --health-start-interval 500ms busybox",
    "--no-healthcheck busybox",
    "--log-driver json-file --log-opt max-size=10m --log-opt max-file=3 busybox",
    "--log-driver none busybox",
    "--network host busybox",
    "--network none busybox",
    "--net bridge busybox",
    "--network container:abc busybox",
    "--network mynet --network-alias a --network-alias b --ip 10.0.0.5 --ip6 fd00::5 busybox",
    "--network name=n1,alias=x,ip=10.1.0.2,driver-opt=k=v,gw-priority=7 --network name=n2 busybox",
    "--network mynet --link db:alias --link-local-ip 169.254.1.1 --mac-address 92:d0:c6:0a:29:33 busybox",
    "--mac-address 92:d0:c6:0a:29:33 busybox",
    "--link db:alias busybox",
    "--ip 10.0.0.5 --network mynet busybox",
    "--dns 1.1.1.1 --dns 2001:db8:0::1 --dns-search example.com --dns-search . --dns-option ndots:2 busybox",
    "--add-host a:1.2.3.4 --add-host b=::1 --add-host 'c:[::1]' --add-host host:host-gateway busybox",
    "--ipc host --pid host --uts host --userns host --cgroupns private --cgroup-parent /x busybox",
    "--isolation default --runtime runc --storage-opt size=10G --group-add audio --group-add 1000 busybox",
    "--annotation a=b --annotation c=d busybox",
    "--platform linux/amd64 --pull never busybox",
    "--disable-content-trust -q busybox",
    "-- busybox -x --rm",
    "busybox --rm -it ls",
    "-ie A=b busybox sh",
    "--hostname=h=x busybox",
    "--interactive=false --rm=true busybox",
    "--volumes-from a --volumes-from b:ro -v /x:/x:rslave busybox",
    "-e 'A=b c\"d\\e' busybox echo 'üñï' '<&>'",
]


@pytest.fixture
def recorder(tmp_path: Path) -> Any:
    """A recording server."""
    server = FakeDaemon(tmp_path / "d.sock")
    server.on("POST", "/containers/create", Answer(201, {"Id": CONTAINER_ID, "Warnings": []}))
    yield server
    server.close()


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """The files that some command lines name."""
    (tmp_path / "env").write_text("\ufeff# comment\nA=1\n\n  B=two words \nINHERITED\nNOTTHERE\n")
    (tmp_path / "labels").write_text("one=1\ntwo\n# no\nthree=a=b\n")
    (tmp_path / "seccomp.json").write_text(
        json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": []}, indent=2)
    )
    return tmp_path


def body_of(command: list[str], recorder: FakeDaemon, cwd: Path) -> tuple[Any, str]:
    """(the body, the query) that the command sends."""
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(cwd),
        "INHERITED": "from outside",
        "PYTHONPATH": str(PYTHON),
    }
    env["DOCKER_HOST"] = f"unix://{recorder.socket_path}"
    recorder.requests.clear()
    done = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    request = recorder.find("POST", "/containers/create")
    return normal(request.json), request.query


def normal(value: Any, key: str = "") -> Any:
    """Without zero values and docker's defaults; lists that docker makes from maps have no order."""
    if isinstance(value, dict):
        found = {name: normal(item, name) for name, item in value.items()}
        return {
            name: item
            for name, item in found.items()
            if item != DEFAULTS.get(name)
            and ((name in MEANINGFUL and item is not None) or keep(item, value, name))
        }
    if isinstance(value, list):
        items = [normal(item) for item in value]
        return sorted(items, key=repr) if key in ("Binds", "Env") else items
    return value


def keep(item: Any, owner: dict[str, Any], name: str) -> bool:
    """An empty object is meaningful only as a member of a set, such as a port or a volume."""
    if item == {} and (name.startswith("/") or "/tcp" in name or "/udp" in name):
        return True
    named = isinstance(item, str) and not any(other[:1].isupper() for other in owner)
    return named or item not in (None, "", 0, False, [], {})


@pytest.mark.parametrize("line", CASES)
def test_body_is_dockers(line: str, recorder: FakeDaemon, files: Path) -> None:
    words = shlex.split(line.replace("FILES", str(files)))
    verb = "run" if words[0] in ("-d", "-di") else "create"
    recorder.on("POST", "/containers/[^/]+/start", Answer(204))
    recorder.on("POST", "/containers/[^/]+/wait", Answer(200, {"StatusCode": 0}))
    expected = body_of([str(DOCKER), verb, *words], recorder, files)
    found = body_of([sys.executable, "-m", "proa.cli", verb, *words], recorder, files)
    assert found == expected
