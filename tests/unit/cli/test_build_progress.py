"""What a build's events look like, to the letter."""

import json
from typing import Any

import pytest

from proa.cli.build_progress import Plain, Silent, Steps
from proa.cli.build_rawjson import Raw
from proa.cli.build_rows import Picture


class Clock:
    """A clock that is set."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def vertex(number: int, **fields: Any) -> dict[str, Any]:
    return {"vertex": {"number": number, **fields}}


def output(number: int, text: str, stream: int = 1) -> dict[str, Any]:
    return {"output": {"number": number, "stream": stream, "text": text}}


def plain(clock: Clock, *events: Any, failed: bool = False) -> str:
    """What follows the first line of a build; a number among the events is a wait in seconds."""
    written: list[str] = []
    display = Plain(written.append, clock)
    for event in events:
        if isinstance(event, dict):
            display.show(event)
        else:
            clock.now += event
    display.close(failed)
    return "".join(written).removeprefix('#0 building with "default" instance using docker driver\n\n')


def test_steps_one_after_another(clock: Clock) -> None:
    text = plain(
        clock,
        {"plan": {"vertices": 3}},
        vertex(0, title="[1/2] FROM docker.io/library/busybox:latest", cached=True),
        vertex(1, title="[2/2] RUN x"),
        0.412,
        output(1, "one\ntwo"),
        11,
        output(1, " and a half\n"),
        vertex(1, done=True, seconds=1.49),
        {"aux": {"ID": "sha256:1"}},
    )
    assert text == (
        "#1 [1/2] FROM docker.io/library/busybox:latest\n"
        "#1 CACHED\n"
        "\n"
        "#2 [2/2] RUN x\n"
        "#2 0.412 one\n"
        "#2 11.41 two and a half\n"
        "#2 DONE 1.5s\n"
    )


def test_a_step_that_is_interrupted_by_another_is_named_again(clock: Clock) -> None:
    text = plain(
        clock,
        vertex(0, title="[a 1/1] RUN a"),
        vertex(1, title="[b 1/1] RUN b"),
        output(0, "from a\n"),
        vertex(1, done=True, seconds=0.04),
        vertex(0, done=True, seconds=2.0),
    )
    assert text == (
        "#1 [a 1/1] RUN a\n#1 ...\n\n#2 [b 1/1] RUN b\n#2 ...\n\n"
        "#1 [a 1/1] RUN a\n#1 0.000 from a\n#1 ...\n\n"
        "#2 [b 1/1] RUN b\n#2 DONE 0.0s\n\n#1 [a 1/1] RUN a\n#1 DONE 2.0s\n"
    )


def test_a_failure_shows_the_output_and_the_lines_again(clock: Clock) -> None:
    text = plain(
        clock,
        vertex(0, title="[2/2] RUN false"),
        output(0, "oh no", stream=2),
        vertex(0, error="exit code: 1", seconds=0.1),
        {"failure": {"excerpt": "Dockerfile:2\n----\n   2 | >>> RUN false\n----\n"}},
        failed=True,
    )
    assert text == (
        "#1 [2/2] RUN false\n#1 0.000 oh no\n#1 ERROR: exit code: 1\n"
        "------\n > [2/2] RUN false:\n0.000 oh no\n------\n"
        "Dockerfile:2\n----\n   2 | >>> RUN false\n----\n"
    )


def test_warnings_come_last_and_steps_without_a_title_are_not_shown(clock: Clock) -> None:
    text = plain(
        clock,
        {"warning": "One or more build-args [A] were not consumed"},
        vertex(0),
        output(0, "internal\n"),
        vertex(0, done=True),
    )
    assert text == "\n 1 warning found:\n - One or more build-args [A] were not consumed\n"


def test_a_miss_and_a_pull(clock: Clock) -> None:
    text = plain(
        clock,
        {"pull": {"reference": "busybox", "id": "abc", "status": "Pulling fs layer"}},
        {
            "pull": {
                "reference": "busybox",
                "id": "abc",
                "status": "Downloading",
                "progressDetail": {"current": 1},
            }
        },
        2,
        {"plan": {"vertices": 1}},
        {"miss": {"number": 3, "title": "[2/2] RUN x", "text": "the command differs"}},
        {"stream": "Step 1/1\n"},
    )
    assert text == (
        "#1 [internal] pull busybox\n#1 abc: Pulling fs layer\n#1 DONE 2.0s\n\n"
        "#2 [2/2] RUN x\n#2 not cached: the command differs\nStep 1/1\n"
    )


def test_raw_lines_are_those_of_buildkits_client() -> None:
    lines: list[str] = []
    raw = Raw(lines.append, lambda: "now")
    raw.show(vertex(0, title="x"))
    raw.show({"output": {"number": 0, "stream": 2, "text": "hello\n"}})
    raw.show(vertex(0, error="broken"))
    raw.show({"status": {"number": 0, "text": "exporting layers done"}})
    raw.show({"warning": "w", "description": "d", "url": "u"})
    raw.show({"plan": {"vertices": 4}})
    began, log, ended, status, warning = map(json.loads, lines)
    (begun,) = began["vertexes"]
    digest = begun["digest"]
    assert digest.startswith("sha256:")
    assert begun == {"digest": digest, "name": "x", "started": "now"}
    assert log["logs"] == [{"vertex": digest, "stream": 2, "data": "aGVsbG8K", "timestamp": "now"}]
    assert ended["vertexes"] == [{**begun, "completed": "now", "error": "broken"}]
    assert status["statuses"][0]["id"] == "exporting layers"
    assert status["statuses"][0]["vertex"] == digest
    assert warning["warnings"] == [
        {"vertex": "", "level": 1, "short": "dw==", "detail": ["ZA=="], "url": "u"}
    ]


def test_silence_keeps_the_failure() -> None:
    silent: list[str] = []
    display = Silent(silent.append)
    display.show(vertex(0, title="RUN x"))
    display.show({"warning": "w"})
    display.show({"failure": {"excerpt": "Dockerfile:1\n"}})
    display.close(True)
    assert silent == ["Dockerfile:1\n"]


def test_the_picture_of_parallel_steps(clock: Clock) -> None:
    steps = Steps(clock)
    picture = Picture(steps)
    steps.note({"plan": {"vertices": 4}})
    steps.vertex({"number": 0, "title": "[1/3] FROM busybox", "cached": True})
    steps.vertex({"number": 1, "title": "[2/3] RUN " + "x" * 60})
    steps.vertex({"number": 2, "title": "[3/3] RUN y"})
    steps.output({"number": 2, "text": "line\t1\x1b[31m\nline 2\npart"})
    steps.vertex({"number": 1, "done": True, "seconds": 0.3})
    clock.now += 2
    assert picture.lines(50) == [
        "[+] Building 2.0s (2/4)             docker:default",
        " => CACHED [1/3] FROM busybox                 0.0s",
        " => [2/3] RUN xxxxxxxxxxxxxxxxxxxxxxxxxxxx... 0.3s",
        " => [3/3] RUN y                               2.0s",
        " => => # line    1[31m",
        " => => # line 2",
    ]
    steps.vertex({"number": 2, "error": "exit code: 1", "seconds": 2.0})
    picture.finished = True
    assert picture.lines(50)[0].split() == ["[+]", "Building", "2.0s", "(3/4)", "FINISHED", "docker:default"]
    assert picture.lines(50)[-1] == " => ERROR [3/3] RUN y                         2.0s"
