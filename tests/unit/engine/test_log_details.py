"""What `logs --details` says before each line."""

from types import SimpleNamespace

import pytest

from proa.engine.log_details import details
from proa.errors import InvalidParameter
from proa.schema.container import ContainerConfig, HostConfig, LogConfig


def record(**options: str) -> SimpleNamespace:
    config = ContainerConfig(
        image="busybox:1", labels={"tier": "front end", "owner": "me"}, env=["A=1&2", "B=2", "gone"]
    )
    host_config = HostConfig(log_config=LogConfig(type="json-file", config=options))
    return SimpleNamespace(
        id="c0ffee" + "0" * 58,
        name="web",
        image_id="sha256:abc",
        resolved=SimpleNamespace(config=config, host_config=host_config),
    )


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, " "),
        ({"labels": "tier,nosuch"}, "tier=front+end "),
        ({"labels": "tier", "env": "A,B"}, "A=1%262,B=2,tier=front+end "),
        ({"labels-regex": "^o", "env-regex": "[B-Z]"}, "B=2,owner=me "),
        ({"tag": "{{.Name}}/{{.ID}}"}, "tag=web%2Fc0ffee000000 "),
        ({"tag": "{{.ImageName}}-{{.Odd}}"}, "tag=busybox%3A1-%7B%7B.Odd%7D%7D "),
    ],
)
def test_details(options: dict[str, str], expected: str) -> None:
    assert details(record(**options)) == expected


def test_an_expression_that_is_none_is_told() -> None:
    with pytest.raises(InvalidParameter, match="invalid labels-regex"):
        details(record(**{"labels-regex": "("}))
