"""Builds from hostile contexts, Dockerfiles and base images: nothing of the host is read, written or removed.

CVE-2024-23651, CVE-2024-23652, CVE-2024-23653, CVE-2024-1753, CVE-2025-4953, CVE-2024-9675, CVE-2019-13139.
"""

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
from hostile import image, sh
from instance import Instance, eventually

SECRET = "hostsecret"
UP = "../" * 12
Member = tuple[str, bytes, str]


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A directory of the host that no build may read or change."""
    place = tmp_path / "outside"
    place.mkdir()
    (place / "secret").write_text(SECRET)
    (place / "empty").mkdir()
    yield place
    assert sorted(str(path.relative_to(place)) for path in place.rglob("*")) == ["empty", "secret"]
    assert (place / "secret").read_text() == SECRET


@pytest.fixture(autouse=True)
def nothing_left(daemon: Instance) -> Iterator[None]:
    """No step leaves a mount or a directory of its own."""
    yield
    builds = Path(daemon.config.data_root, "builds")
    assert eventually(lambda: not [*builds.glob("steps/*"), *builds.glob("contexts/*")])


def archive(dockerfile: str, *members: Member) -> bytes:
    """A context as a client sends it: members are (name, type, what it holds or where it leads)."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, kind, value in ((("Dockerfile", tarfile.REGTYPE, dockerfile)), *members):
            entry = tarfile.TarInfo(name)
            entry.type = kind
            data = value.encode() if kind == tarfile.REGTYPE else b""
            entry.size = len(data)
            if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
                entry.linkname = value
            if kind == tarfile.CHRTYPE:
                entry.devmajor, entry.devminor = 1, 1
            tar.addfile(entry, io.BytesIO(data))
    return stream.getvalue()


def build(daemon: Instance, body: bytes, **query: str) -> tuple[str, str]:
    """(all that was told, the error) of a build by the classic endpoint."""
    assert daemon.engine is not None
    connection = daemon.api
    connection.request(
        "POST",
        "/build?" + urlencode({"t": "hostile/built", **query}),
        body,
        {"Content-Type": "application/x-tar"},
    )
    answer = connection.getresponse()
    text = answer.read().decode(errors="replace")
    if answer.status != 200:
        return text, json.loads(text)["message"]
    errors = [json.loads(line)["error"] for line in text.splitlines() if '"error"' in line]
    return text, errors[0] if errors else ""


# ---- contexts --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dockerfile", ["/{outside}/secret", "../" * 12 + "{outside}/secret", "link/secret", "leads"]
)
def test_the_dockerfile_is_one_of_the_context(daemon: Instance, outside: Path, dockerfile: str) -> None:
    members = (("link", tarfile.SYMTYPE, str(outside)), ("leads", tarfile.SYMTYPE, f"{outside}/secret"))
    told, error = build(
        daemon, archive("FROM busybox\n", *members), dockerfile=dockerfile.format(outside=str(outside)[1:])
    )
    assert error
    assert SECRET not in told.lower()
    assert "internal" not in told


@pytest.mark.parametrize("name", [".dockerignore", "Dockerfile.dockerignore"])
def test_an_ignore_file_that_leads_outside_is_not_read(daemon: Instance, outside: Path, name: str) -> None:
    told, _ = build(
        daemon, archive("FROM busybox\nCOPY . /c\n", (name, tarfile.SYMTYPE, f"{outside}/secret"))
    )
    assert SECRET not in told.lower()


@pytest.mark.parametrize(
    "members",
    [
        [("d", tarfile.SYMTYPE, "{outside}"), ("d/new", tarfile.REGTYPE, "x")],
        [("../" * 12 + "{outside}/new", tarfile.REGTYPE, "x")],
        [("{outside}/new", tarfile.REGTYPE, "x")],
        [("h", tarfile.LNKTYPE, "{outside}/secret"), ("h", tarfile.REGTYPE, "x")],
        [
            ("s", tarfile.SYMTYPE, "{outside}/secret"),
            ("h", tarfile.LNKTYPE, "s"),
            ("s", tarfile.REGTYPE, "x"),
        ],
    ],
    ids=["through a link", "upwards", "absolute", "by a hard link", "by a hard link to a link"],
)
def test_an_archive_writes_into_its_context_alone(
    daemon: Instance, outside: Path, members: list[Member]
) -> None:
    filled = [
        (name.format(outside=outside), kind, value.format(outside=outside)) for name, kind, value in members
    ]
    told, _ = build(daemon, archive("FROM busybox\nCOPY . /c\nRUN cat /c/h /c/s; true\n", *filled))
    assert SECRET not in told.lower()


@pytest.mark.parametrize(
    "source",
    ["link/secret", "link/", "leads", "li*/secret", "./link/../link/secret", UP + "{outside}/secret"],
)
@pytest.mark.parametrize("verb", ["COPY", "ADD"])
def test_a_source_stays_in_the_context(daemon: Instance, outside: Path, source: str, verb: str) -> None:
    members = (("link", tarfile.SYMTYPE, str(outside)), ("leads", tarfile.SYMTYPE, f"{outside}/secret"))
    text = f"FROM busybox\n{verb} {source.format(outside=outside)} /c/\nRUN cat /c/* /c; true\n"
    told, _ = build(daemon, archive(text, *members))
    assert SECRET not in told.lower()


def test_a_device_of_a_context_is_no_device(daemon: Instance) -> None:
    told, error = build(daemon, archive("FROM busybox\nCOPY mem /mem\n", ("mem", tarfile.CHRTYPE, "")))
    assert error, told


# ---- stages and base images --------------------------------------------------------------------------


def links(outside: Path) -> str:
    """The instructions of a stage whose files lead out of it."""
    return (
        f"FROM busybox AS evil\nRUN ln -s {outside} /out && ln -s {outside}/secret /file && mkdir /d "
        f"&& ln -s {UP}{outside} /d/up && rm -rf /tmp && ln -s {outside} /tmp\n"
    )


@pytest.mark.parametrize("source", ["/out/secret", "/file", "/d/up/secret", "/out/", "/o*/secret"])
def test_a_source_stays_in_its_stage(daemon: Instance, outside: Path, source: str) -> None:
    text = links(outside) + f"FROM busybox\nCOPY --from=evil {source} /c/\nRUN cat /c/*; true\n"
    told, _ = build(daemon, archive(text))
    assert SECRET not in told.lower()


@pytest.mark.parametrize(
    "instruction",
    [
        "COPY f /out/new",
        "COPY f /out/",
        "COPY f /file",
        "ADD f /d/up/new",
        "COPY --chmod=777 dir /out/",
        "WORKDIR /out/made",
        "WORKDIR /d/up/made",
        "RUN --mount=type=cache,target=/out/made true",
        "RUN --mount=type=bind,target=/out/made true",
        "RUN --mount=type=tmpfs,target=/d/up/empty true",
        "RUN --mount=type=bind,target=/d/up/empty true",
        "COPY <<EOF /out/heredoc\nx\nEOF",
    ],
)
def test_a_target_stays_in_its_layer(daemon: Instance, outside: Path, instruction: str) -> None:
    told, _ = build(
        daemon,
        archive(
            links(outside) + instruction + "\n", ("f", tarfile.REGTYPE, "x"), ("dir/f", tarfile.REGTYPE, "x")
        ),
    )
    assert SECRET not in told.lower()


def test_a_base_image_redirects_no_step(daemon: Instance, outside: Path) -> None:
    def alter(tree: Path) -> None:
        (tree / "out").symlink_to(outside)
        for name in ("dev", "proc", "sys"):
            (tree / name).rmdir() if (tree / name).is_dir() else None
            (tree / name).symlink_to(outside)

    of = image(daemon, "hostile/base", alter)
    told, _ = build(daemon, archive(f"FROM {of}\nWORKDIR /out/x\nRUN cat /out/secret; ls /dev\n"))
    assert SECRET not in told.lower()


# ---- mounts of commands ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mount",
    [
        "type=bind,source=link,target=/m",
        "type=bind,source=link/secret,target=/m",
        f"type=bind,source={UP}{{outside}},target=/m",
        "type=bind,from=evil,source=/out,target=/m",
        "type=bind,from=evil,source=/d/up,target=/m",
        "type=bind,from=evil,source=/file,target=/m,rw",
        f"type=cache,id={UP}{{outside}},target=/m",
        "type=cache,from=evil,source=/out,target=/m",
        "type=cache,from=evil,source=/d/up,target=/m,id=other",
    ],
)
def test_a_mount_s_source_stays_in_its_root(daemon: Instance, outside: Path, mount: str) -> None:
    text = (
        links(outside) + f"FROM busybox\nRUN --mount={mount.format(outside=outside)} cat /m /m/secret; "
        "touch /m/new; echo x > /m; true\n"
    )
    told, _ = build(daemon, archive(text, ("link", tarfile.SYMTYPE, str(outside))))
    assert SECRET not in told.lower()


@pytest.mark.parametrize("target", ["/proc", "/proc/self", "/proc/sys/kernel", "{link}"])
def test_nothing_is_mounted_over_proc(daemon: Instance, target: str) -> None:
    where = "/l" if target == "{link}" else target
    _, error = build(
        daemon, archive(f"FROM busybox\nRUN ln -s /proc /l\nRUN --mount=type=tmpfs,target={where} true\n")
    )
    assert error


def test_what_a_command_leaves_in_place_of_a_mount_s_target_is_not_followed(
    daemon: Instance, outside: Path
) -> None:
    """The directories made for a mount are removed after the command, which may have changed those above."""
    for swap in ("rm -rf /x && ln -s {outside} /x", "mv /x /y && ln -s {outside} /x"):
        script = f"umount /x/empty 2>/dev/null; {swap.format(outside=outside)}; true"
        told, _ = build(
            daemon, archive(f"FROM busybox\nRUN --mount=type=tmpfs,target=/x/empty {script}\n"), nocache="1"
        )
        assert SECRET not in told.lower()


def test_what_is_written_into_a_bound_context_or_stage_is_nobody_s(daemon: Instance) -> None:
    text = (
        "FROM busybox AS one\nRUN echo stage > /s\n"
        "FROM busybox\nRUN --mount=from=one,target=/m,rw --mount=target=/c,rw "
        "echo changed > /m/s && rm /m/bin/busybox && echo changed > /c/f\n"
        "RUN --mount=from=one,target=/m --mount=target=/c cat /m/s /c/f "
        "&& test -e /m/bin/busybox && touch /done\n"
        "FROM one\nRUN cat /s\n"
    )
    told, error = build(daemon, archive(text, ("f", tarfile.REGTYPE, "context\n")), nocache="1")
    assert error == ""
    assert "changed" not in told.replace("echo changed", "")


# ---- entitlements and what a step may do -------------------------------------------------------------


@pytest.mark.parametrize("flag", ["--security=insecure", "--network=host"])
def test_an_entitlement_is_not_in_a_dockerfile_s_gift(daemon: Instance, flag: str) -> None:
    told, error = build(daemon, archive(f"# syntax=docker/dockerfile:1-labs\nFROM busybox\nRUN {flag} id\n"))
    assert "is not allowed" in error, told


def test_a_command_is_confined_as_a_container_is(daemon: Instance) -> None:
    script = "grep -E '^(CapEff|CapInh|Seccomp):' /proc/self/status; ls /proc/self/fd | wc -l"
    _, inside, _ = sh(daemon, script)
    told, error = build(daemon, archive(f"FROM busybox\nRUN {script}\n"), nocache="1")
    assert error == ""
    lines = [json.loads(line).get("stream", "").strip() for line in told.splitlines()]
    assert [
        line for text in lines for line in text.splitlines() if line in inside.splitlines()
    ] == inside.splitlines()


# ---- git ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1:1/x.git#--upload-pack=touch /tmp/x",
        "https://127.0.0.1:1/x.git#-u",
        "git://-oProxyCommand=x/y.git",
        "ssh://-oProxyCommand=x/y.git",
        "git@-oProxyCommand=x:y.git",
        "https://127.0.0.1:1/x.git#main:../..",
        "https://127.0.0.1:1/x.git#main:/etc",
        "ext::sh -c touch% /tmp/x.git",
        "file:///etc/x.git",
        "/etc",
    ],
)
def test_a_git_url_is_no_option_and_no_program(daemon: Instance, url: str) -> None:
    told, error = build(daemon, b"", remote=url)
    assert error.startswith(("invalid git", "unable to prepare context", "invalid")), told
