"""--change instructions."""

import pytest

from proa.build.changes import apply_changes
from proa.durations import parse_duration
from proa.errors import InvalidParameter
from proa.schema.container import HealthConfig
from proa.schema.image import ImageConfig


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (['CMD ["a", "b"]'], {"cmd": ["a", "b"]}),
        (["cmd echo hi"], {"cmd": ["/bin/sh", "-c", "echo hi"]}),
        (['ENTRYPOINT ["/x"]'], {"entrypoint": ["/x"]}),
        (["ENV A=1 B='2 3'", "ENV A=4", "ENV C the rest"], {"env": ["A=4", "B=2 3", "C=the rest"]}),
        (["LABEL a=1 b=", 'LABEL "c d"=2'], {"labels": {"a": "1", "b": "", "c d": "2"}}),
        (
            ["EXPOSE 80 53/udp 8000-8001"],
            {"exposed_ports": {port: {} for port in ("80/tcp", "53/udp", "8000/tcp", "8001/tcp")}},
        ),
        (['VOLUME ["/a"]', "VOLUME /b /c"], {"volumes": {"/a": {}, "/b": {}, "/c": {}}}),
        (["USER 1000:1000"], {"user": "1000:1000"}),
        (["WORKDIR /a", "WORKDIR b/../c"], {"working_dir": "/a/c"}),
        (["ONBUILD RUN x"], {"on_build": ["RUN x"]}),
        (["STOPSIGNAL SIGINT"], {"stop_signal": "SIGINT"}),
        (["HEALTHCHECK NONE"], {"healthcheck": HealthConfig(test=["NONE"])}),
        (
            ["HEALTHCHECK --interval=1m30s --retries=3 CMD curl x"],
            {"healthcheck": HealthConfig(test=["CMD-SHELL", "curl x"], interval=90 * 10**9, retries=3)},
        ),
        (["# nothing", "", "USER a\nUSER b"], {"user": "b"}),
    ],
)
def test_each_instruction(changes: list[str], expected: dict[str, object]) -> None:
    assert apply_changes(ImageConfig(), changes) == ImageConfig(**expected)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("# nothing", "file with no instructions"),
        ("RUN x", "run is not a valid change command"),
        ("ENV", "ENV requires at least one argument"),
        ("ENV A", "ENV must have two arguments"),
        ("ENV =x", "ENV names can not be blank"),
        ("ENV A=1 B", 'can\'t find = in "B"'),
        ("ENV A='1", "looking for matching single-quote"),
        ("EXPOSE 0", "invalid containerPort: 0"),
        ("EXPOSE 80/icmp", "invalid proto: icmp"),
        ("EXPOSE 70000", "invalid containerPort"),
        ('SHELL ["/bin/bash"]', "shell is not a valid change command"),
        ("ONBUILD FROM x", "FROM isn't allowed"),
        ("ONBUILD ONBUILD RUN x", "Chaining ONBUILD"),
        ("HEALTHCHECK CMD", "Missing command after HEALTHCHECK CMD"),
        ("HEALTHCHECK --interval=x CMD y", "invalid duration"),
        ("HEALTHCHECK --color=x CMD y", "unknown flag: --color"),
        ('VOLUME [""]', "empty string"),
    ],
)
def test_bad_instructions(change: str, text: str) -> None:
    with pytest.raises(InvalidParameter, match=text):
        apply_changes(ImageConfig(), [change])


def test_variables_are_the_images_own() -> None:
    config = ImageConfig(env=["PATH=/bin", "A=a"], cmd=["kept"], args_escaped=True)
    changed = apply_changes(config, ["ENV PATH=$PATH:/sbin B=${A}b", "WORKDIR /$A"])
    assert changed.env == ["PATH=/bin:/sbin", "A=a", "B=ab"]
    assert (changed.working_dir, changed.cmd, changed.args_escaped) == ("/a", ["kept"], True)
    assert apply_changes(config, [""]) is config


def test_durations() -> None:
    assert parse_duration("1h2m3.5s") == (3723 * 10**9) + 5 * 10**8
    assert parse_duration("100ms") == 10**8
    for bad in ("", "1", "x", "1d", "1.2.3s"):
        with pytest.raises(InvalidParameter):
            parse_duration(bad)
