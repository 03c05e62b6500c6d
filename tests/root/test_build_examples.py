"""The examples that everybody tries first: a Node service, and nginx from packages; built, run, asked.

Base images are made of this host: its node with what that needs, and a debootstrapped Debian. Packages come
from wherever the host itself gets them, over the containers' own network.
"""

import http.client
import platform
import re
import shutil
import socket
import subprocess
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from instance import Instance, eventually, instance

CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")

_SERVER = """\
const isOdd = require("is-odd");
require("http").createServer((_, answer) => answer.end(`three is odd: ${isOdd(3)}\\n`)).listen(3000);
"""
_PACKAGE = '{"name": "my-app", "version": "1.0.0", "dependencies": {"is-odd": "3.0.1"}}\n'
_NODE = """\
FROM node:18-alpine
WORKDIR /app
COPY package*.json ./
RUN npm install
COPY . .
EXPOSE 3000
CMD ["node", "server.js"]
"""
_NGINX = """\
FROM debian:local
RUN apt-get update && apt-get install -y --no-install-recommends nginx
RUN echo 'made by {cli}' > /var/www/html/index.html
EXPOSE 80
CMD ["nginx", "-g", "daemon off;"]
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    with instance(tmp_path_factory.mktemp("examples")) as daemon:
        yield daemon


def _needs(*programs: str) -> None:
    absent = [program for program in programs if shutil.which(program) is None]
    if absent:
        pytest.skip(f"no {' and no '.join(absent)} here")


def _reachable(url: str) -> None:
    try:
        with urllib.request.urlopen(url, timeout=30):
            return
    except (OSError, ValueError, urllib.error.URLError) as exc:
        pytest.skip(f"the host's own package source does not answer: {exc}")


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout


def _put(root: Path, path: Path) -> None:
    """A file or a directory of this host at the same place below `root`, symlinks followed."""
    target = root / path.relative_to("/")
    if path.is_dir():
        shutil.copytree(path, target, dirs_exist_ok=True, ignore_dangling_symlinks=True)
    elif path.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)


def _import(daemon: Instance, root: Path, name: str) -> None:
    """A directory as an image."""
    archive = root.with_suffix(".tar")
    with tarfile.open(archive, "w") as tar:
        tar.add(root, ".")
    done = daemon.run("import", str(archive), name, cli="proa", timeout=120)
    archive.unlink()
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def node(daemon: Instance, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image called node:18-alpine, with the host's node and npm."""
    _needs("node", "npm", "busybox")
    registry = _output("npm", "config", "get", "registry").strip()
    _reachable(registry)
    root = tmp_path_factory.mktemp("node") / "root"
    program = Path(str(shutil.which("node"))).resolve()
    modules = Path(str(shutil.which("npm"))).resolve().parents[2]
    for path in (program, *map(Path, re.findall(r"(/\S+)", _output("ldd", str(program)))), CERTIFICATES):
        _put(root, path)
    _put(root, modules)
    for directory in ("bin", "usr/bin", "tmp", "root", "etc"):
        (root / directory).mkdir(parents=True, exist_ok=True)
    shutil.copy2(str(shutil.which("busybox")), root / "bin/busybox")
    (root / "bin/sh").symlink_to("busybox")
    (root / "usr/bin/env").symlink_to("../../bin/busybox")
    if program != Path("/usr/bin/node"):
        (root / "usr/bin/node").symlink_to(program)
    (root / "usr/bin/npm").symlink_to(modules / "npm/bin/npm-cli.js")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    settings = [f"registry={registry}", "audit=false", "fund=false", "update-notifier=false"]
    settings += ["fetch-retries=5"]
    settings += [f"cafile={CERTIFICATES}"] if CERTIFICATES.exists() else []
    (root / "root/.npmrc").write_text("\n".join(settings) + "\n")
    _import(daemon, root, "node:18-alpine")
    shutil.rmtree(root)
    return "node:18-alpine"


@pytest.fixture(scope="module")
def debian(daemon: Instance, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image called debian:local, debootstrapped from where the host gets its own packages."""
    _needs("debootstrap", "apt-get")
    codename = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    sources = _output("apt-get", "indextargets", "--format", "$(SITE) $(CODENAME)", "Created-By: Packages")
    site = next((line.split()[0] for line in sources.splitlines() if line.split()[1:] == [codename]), "")
    if not site:
        pytest.skip(f"no package source of {codename} in apt's own configuration")
    _reachable(f"{site.rstrip('/')}/dists/{codename}/InRelease")
    root = tmp_path_factory.mktemp("debian") / "root"
    command = ["debootstrap", "--variant=minbase", codename, str(root), site]
    for last in (False, True):  # a package source hesitates now and then
        done = subprocess.run(command, check=last, stdout=subprocess.DEVNULL, timeout=400)
        if done.returncode == 0:
            break
        shutil.rmtree(root, ignore_errors=True)
    for name in ("sources.list", "sources.list.d", "apt.conf.d", "auth.conf.d"):
        _put(root, Path("/etc/apt", name))
    (root / "etc/apt/apt.conf.d/99retries").write_text('Acquire::Retries "5";\n')
    _put(root, Path("/usr/share/keyrings"))
    _put(root, CERTIFICATES)
    _import(daemon, root, "debian:local")
    shutil.rmtree(root)
    return "debian:local"


def _free(wanted: int) -> int:
    """The port that is wanted, or another where somebody has it."""
    for port in (wanted, 0):
        try:
            with socket.create_server(("127.0.0.1", port)) as probe:
                chosen: int = probe.getsockname()[1]
                return chosen
        except OSError:
            continue
    raise AssertionError("no port is free")


def _ask(port: int) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/")
        return connection.getresponse().read().decode()
    except (OSError, http.client.HTTPException):
        return ""
    finally:
        connection.close()


def _serve(daemon: Instance, cli: str, image: str, port: int, answered: Callable[[str], bool]) -> None:
    """Run an image with its port published, and have it answer."""
    host = _free(port)
    started = daemon.run("run", "-d", "--rm", "-p", f"{host}:{port}", image, cli=cli)
    assert started.returncode == 0, started.stderr
    container = started.stdout.strip()
    try:
        assert eventually(lambda: answered(_ask(host)), 60), daemon.run("logs", container, cli=cli).stderr
    finally:
        daemon.run("rm", "-f", container, cli=cli)


def _build(daemon: Instance, cli: str, tag: str, context: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if cli == "docker":
        _needs("docker")
    monkeypatch.setenv("DOCKER_BUILDKIT", "0")
    done = daemon.run("build", "--no-cache", "-t", tag, ".", cli=cli, cwd=context, timeout=280)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("cli", ["proa", "docker"])
def test_a_node_service(
    daemon: Instance, node: str, cli: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "Dockerfile").write_text(_NODE)
    (tmp_path / "package.json").write_text(_PACKAGE)
    (tmp_path / "server.js").write_text(_SERVER)
    (tmp_path / ".dockerignore").write_text("node_modules\n")
    _build(daemon, cli, "my-app", tmp_path, monkeypatch)
    _serve(daemon, cli, "my-app", 3000, lambda text: text == "three is odd: true\n")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("cli", ["proa", "docker"])
def test_nginx_from_packages(
    daemon: Instance, debian: str, cli: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "Dockerfile").write_text(_NGINX.format(cli=cli))
    _build(daemon, cli, "web", tmp_path, monkeypatch)
    _serve(daemon, cli, "web", 80, lambda text: text == f"made by {cli}\n")
