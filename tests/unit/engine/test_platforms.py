"""An image of another platform: refused where one was asked for, else a warning."""

import platform
from dataclasses import dataclass, field

import pytest

from proa.engine.platforms import check_platform, parse_platform
from proa.errors import InvalidParameter, NotFound
from proa.schema.image import ImageConfig


@dataclass
class Image:
    architecture: str = "amd64"
    variant: str = ""
    os: str = "linux"
    id: str = "sha256:" + "0" * 64
    size: int = 0
    layers: tuple[str, ...] = ()
    config: ImageConfig = field(default_factory=ImageConfig)


@pytest.fixture(autouse=True)
def _host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")


@pytest.mark.parametrize("wanted", [None, "", "linux", "linux/amd64", "linux/x86_64", "LINUX/AMD64"])
def test_the_hosts_own_is_fine(wanted: str | None) -> None:
    assert check_platform(Image(), "a:1", wanted) is None


@pytest.mark.parametrize("wanted", ["linux/arm64", "linux/aarch64", "linux/arm64/v8"])
@pytest.mark.parametrize("variant", ["", "v8"])
def test_what_was_asked_for_is_fine(wanted: str, variant: str) -> None:
    assert check_platform(Image("arm64", variant), "a:1", wanted) is None


def test_another_architecture_is_warned_of() -> None:
    assert check_platform(Image("arm64", "v8"), "a:1", None) == (
        "The requested image's platform (linux/arm64/v8) does not match the detected host platform "
        "(linux/amd64) and no specific platform was requested"
    )
    assert check_platform(Image(""), "a:1", None) is None


@pytest.mark.parametrize("wanted", ["linux/arm64", "windows", "linux/amd64/v3", "linux/arm64/v9"])
def test_what_was_not_asked_for_is_refused(wanted: str) -> None:
    with pytest.raises(
        NotFound, match=r"^image with reference a:1 was found but its platform \(linux/amd64\)"
    ):
        check_platform(Image(), "a:1", wanted)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("", ("amd64", "", "linux")),
        ("linux", ("amd64", "", "linux")),
        ("arm64", ("arm64", "", "linux")),
        ("Linux/AArch64/v8", ("arm64", "v8", "linux")),
        ("windows(10.0)/x86_64", ("amd64", "", "windows")),
        ("linux/arm/v7", ("arm", "v7", "linux")),
    ],
)
def test_how_platforms_are_written(text: str, meant: tuple[str, str, str]) -> None:
    assert parse_platform(text, ("amd64", "")) == meant


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("foo", '"foo": unknown operating system or architecture: invalid argument'),
        ("a/b/c/d", '"a/b/c/d": cannot parse platform specifier: invalid argument'),
        ("linux/a!", '"a!" is an invalid component of "linux/a!": platform specifier component must match '),
        ("li!nux", '"li!nux" is an invalid OS component of "li!nux": OSAndVersion specifier component must '),
        ("/amd64", '"" is an invalid OS component of "/amd64": '),
    ],
)
def test_what_is_no_platform(text: str, words: str) -> None:
    with pytest.raises(InvalidParameter) as raised:
        parse_platform(text, ("amd64", ""))
    assert str(raised.value).startswith(words)
    assert str(raised.value).endswith("invalid argument")
