"""Builds in trouble: proad killed in the middle, the disk full, many at once; nothing stays, the next works.

The daemon is killed after as many lines of progress as a seed says, so that it is in a command, a copy, an
export or a cache's export. KILLS in the environment asks for more rounds than the suite has time for.
"""

import contextlib
import http.client
import json
import os
import random
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from instance import Instance, eventually, instance, require_root
from test_build import asked, build, context_of

ROUNDS = int(os.environ.get("KILLS", "8"))
DOCKERFILE = """FROM busybox AS one
ARG ROUND
COPY . /files
RUN --mount=type=cache,target=/c,sharing=locked echo begun && cp -r /files /more && echo $ROUND >> /c/log
RUN --mount=type=bind,target=/context,rw cp -r /context/d1 /bound && rm -r /context/d1
FROM busybox
ARG ROUND
COPY --link --from=one /more /linked
RUN dd if=/dev/urandom of=/large bs=1M count=3 && echo $ROUND > /round && ls /linked | wc -l
COPY --from=one /bound /bound
"""


@pytest.fixture
def daemon() -> Iterator[Instance]:
    with instance(Path(tempfile.mkdtemp(prefix="proa-killed-"))) as running:
        yield running


@pytest.fixture
def context(tmp_path: Path) -> Path:
    chance = random.Random(5)
    (tmp_path / "context").mkdir()
    files = {f"d{number % 5}__f{number}": "x" * chance.randrange(20_000) for number in range(200)}
    return context_of(tmp_path / "context", DOCKERFILE, **files)


def left(daemon: Instance) -> list[str]:
    """What a build that is over must not have left, beside layers that the cache or an image has."""
    config = daemon.config
    data, runtime = Path(config.data_root), Path(config.exec_root)
    found = daemon.leftovers()
    places = (data / "builds/steps", data / "builds/contexts", runtime / "builds", data / "content/ingest")
    found += [str(path) for place in places for path in place.glob("*")]
    found += [str(path) for path in (data / "builds/caches").glob("*.new")]
    return found + sorted(unknown(daemon))


def unknown(daemon: Instance) -> set[str]:
    """Directories of snapshots that no layer is in."""
    snapshots = Path(daemon.config.data_root, "snapshots")
    return {path.name for path in snapshots.iterdir() if path.name[0] == "l" and (path / "work").exists()} | {
        path.name for path in snapshots.glob("removed-*")
    }


def emptied(daemon: Instance) -> int:
    """How many snapshots stay when every image but the base and the whole cache are gone."""
    assert daemon.run("image", "rm", "-f", "built").returncode in (0, 1)
    assert daemon.run("builder", "prune", "-af").returncode == 0
    assert daemon.run("image", "prune", "-f").returncode == 0
    snapshots = Path(daemon.config.data_root, "snapshots")
    assert eventually(lambda: left(daemon) == []), left(daemon)
    return len(list(snapshots.glob("l*")))


@pytest.mark.parametrize("kind", ["image", "cache"])
def test_killed(daemon: Instance, context: Path, tmp_path: Path, kind: str) -> None:
    before = emptied(daemon)
    chance = random.Random(kind)
    for number in range(ROUNDS // 2):
        more = {}
        if kind == "cache":
            cache = tmp_path / f"cache{number}"
            cache.mkdir()
            more = {"CacheTo": [{"type": "local", "dest": str(cache), "mode": "max"}]}
        more["Output"] = {"compression": chance.choice(("gzip", "zstd")), "force-compression": "true"}
        query = f't=built&buildargs={{"ROUND":"{number}"}}'
        stop = chance.randrange(4, 60)
        with (
            contextlib.suppress(http.client.HTTPException, OSError),
            asked(daemon, context, query, **more) as answer,
        ):
            for seen, _ in enumerate(answer):
                if seen == stop:
                    daemon.kill_daemon()
        if daemon.process.poll() is None:  # It was done before.
            daemon.kill_daemon()
        daemon.start()
        assert eventually(lambda: left(daemon) == []), left(daemon)
        outcome = build(daemon, context, query, **more)
        assert outcome.error == ""
        shown = daemon.run(
            "run", "--rm", "built", "sh", "-c", "cat /round; find /bound /linked -type f | wc -l"
        )
        assert shown.stdout.split() == [str(number), str(201 + 40)], shown.stderr
    assert emptied(daemon) == before


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MB."""
    require_root()
    place = Path(tempfile.mkdtemp(prefix="proa-small-"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(place)], check=True)
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)
    place.rmdir()


@pytest.mark.parametrize(
    "dockerfile",
    [
        "FROM busybox\nRUN dd if=/dev/zero of=/large bs=1M count=40\n",
        "FROM busybox\nCOPY large /large\n",
        "FROM busybox\nRUN --mount=type=cache,target=/c dd if=/dev/zero of=/c/large bs=1M count=40\n",
        "FROM busybox\nRUN --mount=type=bind,target=/b,rw dd if=/dev/zero of=/b/more bs=1M count=40\n",
        "FROM busybox AS a\nRUN dd if=/dev/urandom of=/large bs=1M count=8\nFROM busybox\n"
        "COPY --from=a /large /1\nCOPY --from=a /large /2\nCOPY --from=a /large /3\n",
    ],
    ids=["run", "copy", "cache mount", "bind mount", "stages"],
)
def test_a_full_disk(small: Path, tmp_path: Path, dockerfile: str) -> None:
    context = context_of(tmp_path, dockerfile)
    (context / "large").write_bytes(b"x" * (40 << 20))
    with instance(small / "daemon") as daemon:
        outcome = build(daemon, context)
        assert "space" in outcome.error + outcome.output, outcome.lines[-3:]
        assert outcome.error
        assert outcome.id == ""
        assert eventually(lambda: left(daemon) == []), left(daemon)
        assert daemon.run("builder", "prune", "-af").returncode == 0
        (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN echo works\n")
        assert build(daemon, context).output == "works\n"


def test_a_full_disk_where_the_cache_and_the_archive_go(
    daemon: Instance, small: Path, context: Path, tmp_path: Path
) -> None:
    (small / "filler").write_bytes(bytes(23 << 20))
    target = {"type": "local", "dest": str(small), "mode": "max"}
    outcome = build(daemon, context, CacheTo=[target])
    assert "no space left on device" in outcome.error
    assert not [path for path in small.rglob(".*") if path.is_file()]
    words = ("build", "-o", f"type=oci,dest={small}/archive", str(context))
    done = daemon.run(*words, cli="proa")
    assert done.returncode == 1
    assert "no space left on device" in done.stderr
    assert [path.name for path in small.iterdir() if path.is_file()] == ["filler"]
    assert eventually(lambda: left(daemon) == []), left(daemon)
    (small / "filler").unlink()
    shutil.rmtree(small / "blobs", ignore_errors=True)
    assert daemon.run(*words, cli="proa").returncode == 0


def test_many_at_once(daemon: Instance, tmp_path: Path) -> None:
    """Twenty builds that share steps, some of whose clients go away."""
    dockerfile = "FROM busybox\nRUN --mount=type=cache,target=/c echo one >> /c/log && sleep 0.3\n"
    dockerfile += "ARG N\nRUN --mount=type=cache,target=/c echo two$N >> /c/log && sleep 0.1\n"
    context = context_of(tmp_path, dockerfile)
    errors: list[str] = []

    def one(number: int) -> None:
        query = f't=many{number}&buildargs={{"N":"{number % 4}"}}'
        if number % 5 == 4:
            with contextlib.suppress(OSError), asked(daemon, context, query) as answer:
                answer.readline()
            return
        errors.append(build(daemon, context, query).error)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == [""] * 16
    seen = context_of(tmp_path, "FROM busybox\nRUN --mount=type=cache,target=/c sort -u /c/log\n")
    assert build(daemon, seen).output.split() == ["one", "two0", "two1", "two2", "two3"]
    images = json.loads(daemon.run("image", "inspect", *(f"many{n}" for n in range(20) if n % 5 != 4)).stdout)
    assert len({image["Id"] for image in images}) == 4
    assert eventually(lambda: left(daemon) == []), left(daemon)
