"""Builds on a real daemon: steps, files, mounts, the cache, failures, and what they leave behind."""

import contextlib
import hashlib
import http.client
import http.server
import io
import json
import os
import shutil
import socket
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from instance import Instance, eventually, instance

PROA_BUILD = "application/vnd.proa.build.v1+json"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    with instance(tmp_path_factory.mktemp("build")) as daemon:
        yield daemon


@pytest.fixture(autouse=True)
def nothing_left(daemon: Instance) -> Iterator[None]:
    """No step leaves a cgroup, a mount, or a directory of its own."""
    yield
    builds = Path(daemon.config.data_root, "builds")
    assert eventually(lambda: daemon.leftovers() == [])
    assert eventually(lambda: not [*builds.glob("steps/*"), *builds.glob("contexts/*")])


class Outcome:
    """What a build told."""

    def __init__(self, lines: list[dict[str, Any]]) -> None:
        self.lines = lines
        self.error = next((line["error"] for line in lines if "error" in line), "")
        self.output = "".join(line["output"]["text"] for line in lines if "output" in line)
        self.cached = [line["vertex"]["title"] for line in lines if line.get("vertex", {}).get("cached")]
        self.excerpt = next((line["failure"]["excerpt"] for line in lines if "failure" in line), "")
        self.id = next((line["aux"]["ID"] for line in lines if "aux" in line), "")


class Connection(http.client.HTTPConnection):
    """HTTP over the daemon's socket."""

    def __init__(self, daemon: Instance) -> None:
        super().__init__("proa", timeout=60)
        self._path = f"{daemon.config.exec_root}/proad.sock"

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)


@contextlib.contextmanager
def asked(
    daemon: Instance, context: Path, query: str = "", **more: Any
) -> Iterator[http.client.HTTPResponse]:
    body = json.dumps({"Context": str(context), **more})
    with contextlib.closing(Connection(daemon)) as connection:
        connection.request("POST", f"/build?{query}", body, {"Content-Type": PROA_BUILD})
        with connection.getresponse() as answer:
            yield answer


def build(daemon: Instance, context: Path, query: str = "t=built", **more: Any) -> Outcome:
    with asked(daemon, context, query, **more) as answer:
        lines = [json.loads(line) for line in answer.read().splitlines() if line.strip()]
        status = answer.status
    if status != 200:
        lines = [{"error": lines[0]["message"]}]
    return Outcome(lines)


def context_of(tmp_path: Path, dockerfile: str, **files: str) -> Path:
    (tmp_path / "Dockerfile").write_text(dockerfile)
    for name, text in files.items():
        path = tmp_path / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def tar_of(files: dict[str, str], mode: Any = "w") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    return stream.getvalue()


def posted(daemon: Instance, body: bytes, query: str) -> list[dict[str, Any]]:
    """The lines of a build whose context is an archive, as Docker's clients send it."""
    with contextlib.closing(Connection(daemon)) as connection:
        connection.request("POST", f"/build?{query}", body, {"Content-Type": "application/x-tar"})
        with connection.getresponse() as answer:
            return [json.loads(line) for line in answer.read().splitlines() if line.strip()]


def run(daemon: Instance, command: str, image: str = "built") -> str:
    found = daemon.run("run", "--rm", image, "sh", "-c", command)
    assert found.returncode == 0, found.stderr
    return found.stdout


def test_a_whole_dockerfile(daemon: Instance, tmp_path: Path) -> None:
    context = context_of(
        tmp_path,
        "FROM busybox AS base\nARG who=nobody\nWORKDIR /app\nCOPY src ./\n"
        "RUN echo $who > who && ls > list\nENV A=b\n"
        "FROM base\nCOPY --from=base /app/list /copied\nCOPY --chown=7:8 --chmod=0600 src/one /two\n"
        'EXPOSE 80\nCMD ["cat", "/app/who"]\n',
        src__one="1",
        src__deep__two="2",
    )
    outcome = build(daemon, context, "t=built&buildargs=%7B%22who%22%3A%22me%22%7D")
    assert outcome.error == ""
    assert daemon.run("run", "--rm", "built").stdout == "me\n"
    assert run(daemon, "cat /copied; stat -c '%u %g %a' /two; cat /app/deep/two; echo $A") == (
        "deep\nlist\none\nwho\n7 8 600\n2b\n"
    )
    again = build(daemon, context, "t=built&buildargs=%7B%22who%22%3A%22me%22%7D")
    assert again.id == outcome.id
    assert len(again.cached) == 5


def test_what_changed_is_done_again_and_times_do_not_count(daemon: Instance, tmp_path: Path) -> None:
    context = context_of(tmp_path, "FROM busybox\nCOPY a /a\nRUN cat /a\n", a="one", b="not copied")
    first = build(daemon, context)
    os.utime(context / "a", (1, 1))
    (context / "b").write_text("changed")
    assert build(daemon, context).id == first.id
    (context / "a").write_text("two")
    changed = build(daemon, context)
    assert changed.cached == []
    assert changed.output == "two"


def test_a_linked_copy_does_not_look_at_what_is_below(daemon: Instance, tmp_path: Path) -> None:
    text = (
        "FROM busybox AS below\nARG base\n"
        "RUN mkdir -m 0700 /real && ln -s /real /link && echo $base > /real/id\n"
        "FROM below\nCOPY --link --chown=7:8 tree /link/\nRUN ls /link /real && stat -c '%u %a' /link/a\n"
    )
    context = context_of(tmp_path, text, tree__a="1", tree__deep__b="2")
    first = build(daemon, context, "t=linked&buildargs=%7B%22base%22%3A%22one%22%7D")
    assert first.error == ""
    # The link of the base is not followed: the copy's own directory takes its place.
    assert first.output == "/link:\na\ndeep\n\n/real:\nid\n7 644\n"
    again = build(daemon, context, "t=linked&buildargs=%7B%22base%22%3A%22two%22%7D")
    assert again.cached == ["[stage-1 1/2] COPY --link --chown=7:8 tree /link/"]
    assert run(daemon, "cat /real/id /link/deep/b; stat -c %a /", "linked") == "two\n2755\n"
    third = build(daemon, context, "t=linked&buildargs=%7B%22base%22%3A%22two%22%7D")
    assert third.id == again.id


def test_a_shared_step_outlives_the_build_that_began_it(daemon: Instance, tmp_path: Path) -> None:
    """It reads its context, which came as a tar, after its client has gone."""
    text = (
        "FROM busybox\nRUN --mount=type=bind,target=/context --mount=type=cache,target=/c "
        "touch /c/begun; while ! [ -e /c/go ]; do usleep 1000; done; cat /context/file\n"
    )
    body = tar_of({"Dockerfile": text, "file": "still there\n"})
    mounts = Path(daemon.config.data_root, "builds/caches")
    with contextlib.closing(Connection(daemon)) as first, contextlib.closing(Connection(daemon)) as second:
        first.request("POST", "/build?t=shared", body, {"Content-Type": "application/x-tar"})
        assert eventually(lambda: [*mounts.glob("*/begun")])
        second.request("POST", "/build?t=shared", body, {"Content-Type": "application/x-tar"})
        answer = second.getresponse()
        lines = iter(answer.readline, b"")
        assert b"Step 2/2" in next(line for line in lines if b"Step 2/2" in line)
        first.close()
        contexts = Path(daemon.config.data_root, "builds/contexts")
        (begun,) = mounts.glob("*/begun")
        begun.with_name("go").touch()
        assert any(b"still there" in line for line in lines)
    assert eventually(lambda: not [*contexts.iterdir()])


def test_an_epoch_makes_builds_equal_to_the_byte(tmp_path: Path) -> None:
    """On two daemons of other umasks and pasts, of files of other times, owners and order."""
    dockerfile = (
        "FROM busybox AS one\nWORKDIR /w\nCOPY . /files\nCOPY file .\n"
        "RUN mkdir d && for n in 9 3 7; do echo x > d/$n; done && echo x > d/y && ln -s y d/z && ln d/9 d/8\n"
        "RUN rm -r /files/b && chmod 700 /files/a\nCOPY --link --chown=3:4 a /linked/\nLABEL a=b\n"
        "FROM busybox\nCOPY --from=one --link /linked /linked\nCOPY --from=one /files /files\n"
        "COPY --from=one /w /w\nCOPY --link <<EOF /inline\ntext\nEOF\n"
    )
    ids, archives, base = [], [], str(tmp_path / "base.tar")
    for name, names, umask in (("one", "bac", 0o022), ("two", "cab", 0o077)):
        context = tmp_path / name
        context.mkdir()
        files = {f"{directory}__{file}": file for directory in names for file in names}
        context_of(context, dockerfile, file="content", **files)
        for number, path in enumerate(context.rglob("*")):
            os.chown(path, number, len(ids))
            os.utime(path, (1_100_000_000 + 7 * number + len(ids),) * 2)
        before = os.umask(umask)
        try:
            stack = contextlib.ExitStack()
            fresh = stack.enter_context(instance(tmp_path / f"daemon-{name}"))
        finally:
            os.umask(before)
        with stack:
            # Of each instance busybox is another image.
            assert fresh.run("load", "-i", base).returncode == 0 if ids else True
            assert fresh.run("save", "-o", base, "busybox").returncode == 0
            wish = {"rewrite-timestamp": "true"}
            epoch = 1_000_000_000
            if ids:  # It has every layer in another form already.
                other = {"compression": "zstd", "force-compression": "true", **wish}
                assert not build(fresh, context, "", SourceDateEpoch=epoch, Output=other).error
            outcome = build(fresh, context, "t=same&nocache=1", SourceDateEpoch=epoch, Output=wish)
            assert outcome.error == ""
            times = fresh.run("run", "--rm", "same", "sh", "-c", "stat -c %Y /w/file /w/d /w/d/y /linked/c")
            assert set(times.stdout.split()) == {"1000000000"}
            shown = json.loads(fresh.run("image", "inspect", "same").stdout)[0]
            assert shown["Created"] == "2001-09-09T01:46:40Z"
            ids.append(outcome.id)
            archives.append({})
            for kind in ("docker", "oci", "tar"):
                archive = tmp_path / f"{name}.{kind}"
                output = f"type={kind},dest={archive},rewrite-timestamp=true"
                words = ("--build-arg", f"SOURCE_DATE_EPOCH={epoch}", "-o", output)
                built = fresh.run("build", *words, str(context), cli="proa")
                assert built.returncode == 0, built.stderr
                archives[-1][kind] = hashlib.sha256(archive.read_bytes()).hexdigest()
    assert ids[0] == ids[1]
    assert archives[0] == archives[1]


def test_what_is_ignored_is_not_there(daemon: Instance, tmp_path: Path) -> None:
    context = context_of(tmp_path, "FROM busybox\nCOPY . /all\n", a="1", secret__key="k", secret__pub="p")
    (context / ".dockerignore").write_text("secret\n!secret/pub\nDockerfile\n")
    assert build(daemon, context).error == ""
    assert run(daemon, "cd /all && find . -type f | sort") == "./.dockerignore\n./a\n./secret/pub\n"


def test_copy_into_what_is_there_and_through_links_of_the_image(daemon: Instance, tmp_path: Path) -> None:
    context = context_of(
        tmp_path,
        "FROM busybox\nRUN mkdir -p /real/sub && echo old > /real/sub/f && ln -s /real /link "
        "&& ln -s ../../../etc /out\nCOPY tree /link/\nCOPY one /out/one\n",
        tree__sub__f="new",
        tree__sub__g="g",
        one="1",
    )
    assert build(daemon, context).error == ""
    assert run(daemon, "cat /real/sub/f /real/sub/g /etc/one; ls -ld /link | cut -c1") == "newg1l\n"
    assert not Path("/etc/one").exists()


def test_a_mount_of_the_context_has_what_counts_and_is_roots(daemon: Instance, tmp_path: Path) -> None:
    context = context_of(
        tmp_path,
        "FROM busybox\nRUN --mount=target=/c cd /c && find . -type f | sort && stat -c '%u %g' a\n"
        "RUN --mount=source=sub,target=/s ls /s && touch /s/x 2>&1 || echo not written\n",
        a="1",
        sub__kept="k",
        sub__key="secret",
    )
    (context / ".dockerignore").write_text("**/key\nDockerfile\n.dockerignore\n")
    os.chown(context / "a", 1234, 1234)
    assert build(daemon, context).output == (
        "./a\n./sub/kept\n0 0\nkept\ntouch: /s/x: Read-only file system\nnot written\n"
    )
    # What is mounted decides, and no other file.
    (context / "Dockerfile").write_text("FROM busybox\nRUN --mount=source=sub,target=/s ls /s\n")
    assert build(daemon, context).output == "kept\n"
    for name in ("a", "sub/key"):
        (context / name).write_text("changed")
    assert build(daemon, context).output == ""
    (context / "sub/kept").write_text("changed")
    assert build(daemon, context).output == "kept\n"


def test_directories_that_a_copy_makes(daemon: Instance, tmp_path: Path) -> None:
    context = context_of(
        tmp_path,
        "FROM busybox\nCOPY tree /whole\nCOPY --chmod=0750 --chown=7:8 tree /a/b/\nCOPY none-* /c/\n"
        "COPY . /etc/\nCOPY --exclude=tree --exclude=deep tree /e/\n",
        tree__deep__file="1",
        tree__tree__file="2",
        tree__one="3",
        first="x",
    )
    for name in ("tree", "tree/deep"):
        (context / name).chmod(0o1777)
    os.link(context / "first", context / "tree/second")
    assert build(daemon, context).error == ""
    stat = "stat -c '%n %a %u' /whole /whole/deep /a /a/b /a/b/deep /a/b/one; ls /c 2>/dev/null; ls /e"
    assert run(daemon, stat) == (
        "/whole 755 0\n/whole/deep 1777 0\n/a 750 7\n/a/b 750 7\n/a/b/deep 750 7\n/a/b/one 750 7\n"
        "one\nsecond\n"
    )
    # One lies in a directory that was there, the other in one that the copy made.
    assert run(daemon, "stat -c %h /etc/first /etc/tree/second; cat /etc/tree/second") == "2\n2\nx"


def test_what_a_later_pattern_takes_back_has_its_directories(daemon: Instance, tmp_path: Path) -> None:
    dockerfile = (
        "FROM busybox\nCOPY --exclude=**/q --exclude=!**/q/two . /a/\n"
        "COPY --parents --exclude=p/q --exclude=!p/q/r/one p /b/\nRUN find /a /b -type f\n"
    )
    files = {f"p__{name}": name for name in ("q__two", "q__three", "q__r__one", "four")}
    outcome = build(daemon, context_of(tmp_path, dockerfile, **files))
    assert outcome.error == ""
    kept = ["/a/Dockerfile", "/a/p/four", "/a/p/q/two", "/b/p/four", "/b/p/q/r/one"]
    assert sorted(outcome.output.split()) == kept


def test_links_of_a_context_stay_inside_it(daemon: Instance, tmp_path: Path) -> None:
    context = context_of(tmp_path, "FROM busybox\nCOPY out /taken\n", file="x")
    (context / "out").symlink_to("/etc/passwd")
    outcome = build(daemon, context)
    assert '"/out": not found' in outcome.error
    (context / "Dockerfile").write_text("FROM busybox\nCOPY . /all\n")
    assert build(daemon, context).error == ""
    assert run(daemon, "readlink /all/out") == "/etc/passwd\n"


def test_archives_are_unpacked_by_add_alone(daemon: Instance, tmp_path: Path) -> None:
    context = context_of(
        tmp_path, "FROM busybox\nADD a.tgz /added/\nADD a.txz /added2\nCOPY a.tgz /copied/\n"
    )
    for name, mode in (("a.tgz", "w:gz"), ("a.txz", "w:xz")):
        with tarfile.open(context / name, mode) as archive:
            info = tarfile.TarInfo("dir/file")
            info.size, info.uid = 2, 5
            archive.addfile(info, io.BytesIO(b"in"))
    assert build(daemon, context).error == ""
    assert run(daemon, "cat /added/dir/file /added2/dir/file; stat -c %u /added/dir/file; ls /copied") == (
        "inin5\na.tgz\n"
    )


@pytest.mark.parametrize("mode", ["w:bz2", "w:xz", "w:gz"])
def test_a_context_in_any_compression(daemon: Instance, mode: str) -> None:
    body = tar_of({"Dockerfile": "FROM busybox\nCOPY file /file\n", "file": mode}, mode)
    assert any("aux" in line for line in posted(daemon, body, "t=packed"))
    assert run(daemon, "cat /file", "packed") == mode
    cut = posted(daemon, body[: len(body) // 2], "t=packed")
    assert any("error" in line for line in cut) or "message" in cut[0]


@pytest.fixture
def web() -> Iterator[dict[str, tuple[str, bytes]]]:
    """A server on 127.0.0.1 of what is put into the dictionary: (type, body) by path; `/` is its address."""
    pages: dict[str, tuple[str, bytes]] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            kind, body = pages.get(self.path, ("", b""))
            self.send_response(200 if kind else 404)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        pages["/"] = ("text/plain", f"http://127.0.0.1:{server.server_port}".encode())
        yield pages
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("kind", ["text/plain", "application/octet-stream"])
def test_what_a_url_leads_to_is_told_by_its_bytes(
    daemon: Instance, web: dict[str, tuple[str, bytes]], kind: str
) -> None:
    address = web["/"][1].decode()
    web["/Dockerfile"] = (kind, b"FROM busybox\nRUN echo alone > /file\n")
    web["/tar"] = (kind, tar_of({"Dockerfile": "FROM busybox\nCOPY f /file\n", "f": "tar\n"}, "w:xz"))
    for path, text in (("Dockerfile", "alone\n"), ("tar", "tar\n")):
        assert any("aux" in line for line in posted(daemon, b"", f"t=remote&remote={address}/{path}"))
        assert run(daemon, "cat /file", "remote") == text


def test_a_dockerfile_by_its_url(daemon: Instance, web: dict[str, tuple[str, bytes]], tmp_path: Path) -> None:
    address = web["/"][1].decode()
    web["/some/Dockerfile"] = ("text/html", b"FROM busybox\nCOPY here /here\n")
    context = context_of(tmp_path, "FROM nothing\n", here="local")
    done = daemon.run("build", "-t", "by-url", "-f", f"{address}/some/Dockerfile", str(context), cli="proa")
    assert done.returncode == 0, done.stderr
    assert run(daemon, "cat /here", "by-url") == "local"
    failed = daemon.run("build", "-f", f"{address}/none", str(context), cli="proa")
    assert "failed to GET" in failed.stderr
    assert "status 404" in failed.stderr


def test_add_of_urls(daemon: Instance, web: dict[str, tuple[str, bytes]], tmp_path: Path) -> None:
    address = web["/"][1].decode()
    web["/a/file.txt?x=1"] = web["/same"] = ("text/plain", b"fetched")
    web["/x.tar"] = ("application/x-tar", tar_of({"inside": "unpacked"}))
    digest = hashlib.sha256(b"fetched").hexdigest()
    text = f"FROM busybox\nADD {address}/a/file.txt?x=1 /d/\nADD --unpack=true {address}/x.tar /u\n"
    text += f"ADD --checksum=sha256:{digest} --chmod=644 --chown=5:6 {address}/same /same\n"
    context = context_of(tmp_path, text)
    assert build(daemon, context, "t=added").error == ""
    found = run(daemon, "stat -c '%a %u %g' /d/file.txt /same; cat /d/file.txt /u/inside", "added")
    assert found == "600 0 0\n644 5 6\nfetchedunpacked"
    context = context_of(tmp_path, f"FROM busybox\nADD --checksum=sha256:{'0' * 64} {address}/same /\n")
    assert f"digest mismatch sha256:{digest}: sha256:{'0' * 64}" in build(daemon, context).error
    context = context_of(tmp_path, f"FROM busybox\nADD {address}/none /\n")
    assert "status 404" in build(daemon, context).error


def test_a_cache_that_begins_with_an_images_files(daemon: Instance, tmp_path: Path) -> None:
    mount = "--mount=type=cache,target=/c,id=begun,from=first,source=/with"
    text = "FROM busybox AS first\nRUN mkdir /with && echo begun > /with/file\nFROM busybox\n"
    text += f"RUN {mount} cat /c/file > /seen && echo changed > /c/file\nRUN {mount} cat /c/file >> /seen\n"
    text += "RUN --mount=type=cache,target=/c,id=begun ls /c >> /seen\n"
    assert build(daemon, context_of(tmp_path, text), "t=seeded").error == ""
    assert run(daemon, "cat /seen", "seeded") == "begun\nchanged\n"


def test_what_a_build_may_not_do_it_does_not_get_from_the_cache(daemon: Instance, tmp_path: Path) -> None:
    context = context_of(tmp_path, "FROM busybox\nRUN --network=host echo once\n")
    assert build(daemon, context, Entitlements=["network.host"]).error == ""
    assert "network.host is not allowed" in build(daemon, context).error


def test_a_key_in_a_file_is_served_by_an_agent(daemon: Instance, tmp_path: Path) -> None:
    """The key itself is nowhere but there; nothing of it is left."""
    if not shutil.which("ssh-keygen") or not shutil.which("ssh-agent"):
        pytest.skip("needs OpenSSH's ssh-keygen and ssh-agent")
    key = tmp_path / "key.pem"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "the-key", "-f", key], check=True)
    (tmp_path / "c").mkdir()
    context = context_of(
        tmp_path / "c", "FROM busybox\nRUN --mount=type=ssh,id=mine,required test -S $SSH_AUTH_SOCK\n"
    )
    done = daemon.run("build", "--ssh", f"mine={key}", str(context), cli="proa")
    assert done.returncode == 0, done.stderr
    missing = daemon.run("build", "--ssh", f"mine={tmp_path}/none", str(context), cli="proa")
    assert "no such file or directory" in missing.stderr


def test_heredocs(daemon: Instance, tmp_path: Path) -> None:
    context = context_of(
        tmp_path,
        "FROM busybox\nARG v=1\nCOPY <<one <<'two' /files/\n$v\none\n$v\ntwo\n"
        "RUN <<EOF\necho a\necho b\nEOF\nRUN <<EOF\n#!/bin/busybox sh\necho from $0\nEOF\n",
    )
    outcome = build(daemon, context)
    assert outcome.output == "a\nb\nfrom /dev/pipes/EOF\n"
    assert run(daemon, "cat /files/one /files/two") == "1\n$v\n"


def test_mounts_of_commands(daemon: Instance, tmp_path: Path) -> None:
    context = context_of(
        tmp_path,
        "FROM busybox AS other\nRUN echo stage > /s\nFROM busybox\n"
        "RUN --mount=type=cache,target=/c echo $(cat /c/n 2>/dev/null)x > /c/n && cp /c/n /counted\n"
        "RUN --mount=target=/ctx --mount=from=other,source=/s,target=/t cat /ctx/file /t > /read; "
        "echo no > /ctx/file; true\n"
        "RUN --mount=target=/ctx,rw echo gone > /ctx/new && cat /ctx/new\n"
        "RUN --mount=type=secret,id=s cat /run/secrets/s; stat -c %a /run/secrets/s\n"
        "RUN --mount=type=tmpfs,target=/tmpfs echo x > /tmpfs/x\n",
        file="context\n",
    )
    outcome = build(daemon, context, Secrets={"s": "aHVzaA=="})
    assert outcome.error == ""
    assert outcome.output == "/bin/sh: can't create /ctx/file: Read-only file system\ngone\nhush400\n"
    assert (
        run(daemon, "cat /counted /read; ls -d /tmpfs /run/secrets /c /t 2>/dev/null; true")
        == "x\ncontext\nstage\n"
    )
    assert not (context / "new").exists()
    (context / "Dockerfile").write_text(
        "FROM busybox\nRUN --mount=type=cache,target=/c cat /c/n && echo $(cat /c/n)y > /c/n\n"
    )
    assert build(daemon, context).output == "x\n"


def test_a_secret_is_no_part_of_the_image_nor_of_the_cache_key(daemon: Instance, tmp_path: Path) -> None:
    context = context_of(
        tmp_path, "FROM busybox\nRUN --mount=type=secret,id=s,required wc -c /run/secrets/s\n"
    )
    assert "secret s: not found" in build(daemon, context).error
    first = build(daemon, context, Secrets={"s": "YQ=="})
    assert build(daemon, context, Secrets={"s": "Yg=="}).id == first.id


def test_networks_of_commands_and_entitlements(daemon: Instance, tmp_path: Path) -> None:
    context = context_of(tmp_path, "FROM busybox\nRUN --network=none ls /sys/class/net\n")
    assert build(daemon, context).output == "lo\n"
    context = context_of(tmp_path, "FROM busybox\nRUN --security=insecure true\n")
    assert "security.insecure is not allowed" in build(daemon, context).error
    assert build(daemon, context, Entitlements=["security.insecure"]).error == ""


def test_a_failed_command_is_shown_where_it_stands(daemon: Instance, tmp_path: Path) -> None:
    context = context_of(
        tmp_path, "FROM busybox\nRUN echo before\nRUN echo words && exit 3\nRUN echo after\n"
    )
    outcome = build(daemon, context)
    assert outcome.error == (
        'process "/bin/sh -c echo words && exit 3" did not complete successfully: exit code: 3'
    )
    assert outcome.output == "before\nwords\n"
    assert "   3 | >>> RUN echo words && exit 3" in outcome.excerpt
    assert outcome.id == ""


@pytest.mark.parametrize(
    ("dockerfile", "error"),
    [
        ("FROM busybox\nFOO\n", "dockerfile parse error on line 2: unknown instruction: FOO"),
        ("FROM busybox\nCOPY nothing /\n", '"/nothing": not found'),
        ("FROM scratch\nCOPY --chown=nobody-here a /\n", "unable to find user nobody-here"),
        ("FROM busybox\nWORKDIR /bin/busybox\n", "mkdir /bin/busybox: not a directory"),
        ('FROM busybox\nRUN ["none"]\n', 'process "none" did not complete successfully: '),
        ("FROM busybox\nRUN <<E\nfalse\nE\n", 'process "/bin/sh -c false\\n" did not complete'),
        ("FROM busybox\nCOPY a a /target\n", "the destination must be a directory and end with a /"),
        ("FROM busybox\nCOPY a /bin/busybox/x\n", "cannot copy to non-directory: /bin/busybox/x"),
        ('FROM busybox\nRUN ["/nothing"]\n', "no such file or directory"),
        ("FROM busybox\nUSER nobody-here\nRUN true\n", "unable to find user nobody-here"),
    ],
)
def test_what_cannot_be_built(daemon: Instance, tmp_path: Path, dockerfile: str, error: str) -> None:
    outcome = build(daemon, context_of(tmp_path, dockerfile, a="a"))
    assert error in outcome.error
    assert outcome.id == ""


def test_a_client_that_goes_away_ends_its_build(daemon: Instance, tmp_path: Path) -> None:
    context = context_of(tmp_path, "FROM busybox\nRUN echo begun && sleep 600\n")
    with asked(daemon, context) as answer:
        seen = b""
        while b"begun" not in seen:
            seen += answer.read1(4096)
    # What is left of the step is looked at after every test.
    assert eventually(lambda: not list(Path(daemon.config.data_root, "builds/steps").iterdir()))


def test_builds_share_a_step_that_both_want(daemon: Instance, tmp_path: Path) -> None:
    context = context_of(
        tmp_path,
        "FROM busybox\nRUN --mount=type=cache,target=/c echo once >> /c/log && sleep 1 && cat /c/log\n",
    )
    outcomes: list[Outcome] = []
    threads = [threading.Thread(target=lambda: outcomes.append(build(daemon, context, ""))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {outcome.output for outcome in outcomes} == {"once\n"}
    assert len({outcome.id for outcome in outcomes}) == 1


def test_locked_caches_are_one_steps_at_a_time(daemon: Instance, tmp_path: Path) -> None:
    """Of several steps and builds; a step that has one twice does not wait for itself."""
    alone = "mkdir /c/held && echo $N >> /c/log && sleep 0.05 && rmdir /d/held"
    mounts = "--mount=type=cache,id=lock,sharing=locked,target=/c"
    more = "--mount=type=cache,id=other,sharing=locked,target=/e"
    dockerfile = "".join(
        f"FROM busybox AS s{number}\nARG N\n"
        f"RUN {first} {second} --mount=type=cache,id=lock,sharing=locked,target=/d {alone}\n"
        for number, (first, second) in enumerate(((mounts, more), (more, mounts)))
    )
    dockerfile += "FROM busybox\nCOPY --from=s0 /etc/passwd /a\nCOPY --from=s1 /etc/passwd /b\n"
    context = context_of(tmp_path, dockerfile)
    outcomes: list[Outcome] = []

    def one(number: int) -> None:
        outcomes.append(build(daemon, context, f'buildargs={{"N":"{number}"}}'))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [outcome.error for outcome in outcomes] == [""] * 4
    seen = context_of(tmp_path, f"FROM busybox\nRUN {mounts} sort /c/log\n")
    assert build(daemon, seen).output.split() == ["0", "0", "1", "1", "2", "2", "3", "3"]


def test_the_docker_cli_builds_saves_and_runs(
    daemon: Instance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = context_of(
        tmp_path, "FROM busybox\nCOPY . /app\nRUN cat /app/file > /read\nLABEL a=b\n", file="f"
    )
    monkeypatch.setenv("DOCKER_BUILDKIT", "0")
    result = daemon.run("build", "-t", "by-docker:1", "--label", "c=d", str(context))
    assert result.returncode == 0, result.stderr
    assert "Successfully tagged by-docker:1" in result.stdout
    assert run(daemon, "cat /read", "by-docker:1") == "f"
    labels = json.loads(daemon.run("inspect", "-f", "{{json .Config.Labels}}", "by-docker:1").stdout)
    assert labels == {"a": "b", "c": "d"}
    saved = tmp_path / "saved.tar"
    assert daemon.run("save", "-o", str(saved), "by-docker:1").returncode == 0
    assert daemon.run("rmi", "by-docker:1").returncode == 0
    assert daemon.run("load", "-i", str(saved)).returncode == 0
    assert run(daemon, "cat /read", "by-docker:1") == "f"


def test_the_cache_is_pruned(daemon: Instance, tmp_path: Path) -> None:
    context = context_of(tmp_path, "FROM busybox\nRUN echo pruned > /p\n")
    build(daemon, context, "")
    # What `system prune --filter label=x` asks: the cache's entries have no labels.
    labelled = daemon.api.call("POST", "/build/prune?all=1&filters=%7B%22label%22%3A%5B%22x%22%5D%7D")
    assert labelled == {"CachesDeleted": None, "SpaceReclaimed": 0}
    report = daemon.api.call("POST", "/build/prune?all=1")
    assert report["CachesDeleted"]
    assert build(daemon, context, "").cached == []


def test_a_linked_layer_counts_once_however_many_bases_it_is_on(daemon: Instance, tmp_path: Path) -> None:
    size = 3 << 20
    context = context_of(tmp_path, "", file="x" * size)

    def used() -> int:
        return daemon.api.call("GET", "/system/df?type=image")["LayersSize"]

    def built(number: int) -> int:
        dockerfile = f"FROM busybox\nRUN echo {number} > /base\nCOPY --link file /linked{os.getpid()}\n"
        (context / "Dockerfile").write_text(dockerfile)
        assert build(daemon, context, f"t=linked{number}").error == ""
        return used()

    before, first, second = used(), built(1), built(2)
    assert first >= before + size
    assert second < first + size
    for number in (1, 2):
        shown = json.loads(daemon.run("image", "inspect", f"linked{number}").stdout)[0]
        assert shown["Size"] > size


def test_what_a_prune_leaves_follows_from_the_space(daemon: Instance, tmp_path: Path) -> None:
    context = context_of(
        tmp_path, "FROM busybox\n" + "".join(f"RUN head -c 1000000 /dev/zero > /{n}\n" for n in range(5))
    )
    assert daemon.run("builder", "prune", "-af").returncode == 0
    assert build(daemon, context, "").error == ""
    daemon.run("image", "prune", "-f")

    def left(*words: str) -> int:
        done = daemon.run("builder", "prune", "-af", *words, cli="proa")
        assert done.returncode == 0, done.stderr
        return len(daemon.api.call("GET", "/system/df?type=build-cache")["BuildCache"])

    records = daemon.api.call("GET", "/system/df?type=build-cache")["BuildCache"]
    assert len(records) == 5
    assert sum(record["Parents"] is not None for record in records) == 4
    assert left("--max-used-space", "20mb") == 5
    assert left("--min-free-space", "1kb") == 5
    assert left("--max-used-space", "1mb", "--reserved-space", "4.1mb") == 4
    assert left("--keep-storage", "2.1mb") == 2
    parent = next(record["Parents"] for record in records if record["Parents"])[0]
    assert left("--filter", f"parent={parent}x") == 2
    assert left("--min-free-space", "900tb") == 0


def test_the_cache_is_kept_below_what_the_configuration_says(tmp_path: Path) -> None:
    gc = {"enabled": True, "policy": [{"all": True, "maxUsedSpace": "2200k"}]}
    (tmp_path / "daemon.json").write_text(json.dumps({"builder": {"gc": gc}}))
    context = tmp_path / "context"
    context.mkdir()
    with instance(tmp_path / "daemon", "--config-file", str(tmp_path / "daemon.json")) as daemon:
        for number in range(5):
            dockerfile = f"FROM busybox\nRUN head -c 1000000 /dev/zero > /f{number}\n"
            assert build(daemon, context_of(context, dockerfile), "").error == ""

        def kept() -> list[str]:
            found = daemon.api.call("GET", "/system/df?type=build-cache")["BuildCache"]
            return sorted(record["Description"][-2:] for record in found)

        assert eventually(lambda: kept() == ["f3", "f4"]), kept()


def test_layers_of_the_cache_outlive_their_images(daemon: Instance, tmp_path: Path) -> None:
    context = context_of(tmp_path, "FROM busybox\nRUN echo kept > /k\n")
    build(daemon, context, "t=to-go")
    assert daemon.run("rmi", "-f", "to-go").returncode == 0
    assert len(build(daemon, context, "t=back").cached) == 1
    assert run(daemon, "cat /k", "back") == "kept\n"


def test_the_cache_is_there_after_a_kill(daemon: Instance, tmp_path: Path) -> None:
    context = context_of(tmp_path, "FROM busybox\nRUN echo survives > /k\n")
    first = build(daemon, context)
    daemon.kill_daemon()
    daemon.start()
    again = build(daemon, context)
    assert (again.id, len(again.cached)) == (first.id, 1)
