"""References and digests, as Docker reads and shows them."""

import pytest

from proa.errors import InvalidParameter
from proa.schema.reference import Reference, id_prefix, parse_digest, parse_reference, parse_tag

HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "canonical", "familiar"),
    [
        ("busybox", "docker.io/library/busybox", "busybox"),
        ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
        ("docker.io/busybox", "docker.io/library/busybox", "busybox"),
        ("index.docker.io/library/busybox", "docker.io/library/busybox", "busybox"),
        ("user/app:v1", "docker.io/user/app:v1", "user/app:v1"),
        ("docker.io/user/app", "docker.io/user/app", "user/app"),
        ("library/deep/app", "docker.io/library/deep/app", "library/deep/app"),
        ("localhost/app", "localhost/app", "localhost/app"),
        ("localhost:5000/app", "localhost:5000/app", "localhost:5000/app"),
        ("r.example.com:5000/a/b:t", "r.example.com:5000/a/b:t", "r.example.com:5000/a/b:t"),
        ("[::1]:5000/app", "[::1]:5000/app", "[::1]:5000/app"),
        ("Upper/app", "Upper/app", "Upper/app"),
        ("a__b/c.d-e", "docker.io/a__b/c.d-e", "a__b/c.d-e"),
        (f"busybox@sha256:{HEX}", f"docker.io/library/busybox@sha256:{HEX}", f"busybox@sha256:{HEX}"),
        (
            f"busybox:1@sha256:{HEX}",
            f"docker.io/library/busybox:1@sha256:{HEX}",
            f"busybox:1@sha256:{HEX}",
        ),
    ],
)
def test_a_reference_is_normalised_and_shown_short(text: str, canonical: str, familiar: str) -> None:
    reference = parse_reference(text)
    assert reference.canonical == canonical
    assert reference.familiar == familiar
    assert parse_reference(reference.canonical) == reference
    assert parse_reference(reference.familiar) == reference


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "invalid reference format"),
        ("a:", "invalid reference format"),
        (":tag", "invalid reference format"),
        ("a b", "invalid reference format"),
        ("a//b", "invalid reference format"),
        ("-a", "invalid reference format"),
        ("a:t:u", "invalid reference format"),
        ("a:-t", "invalid reference format"),
        ("../etc", "invalid reference format"),
        ("a\n", "invalid reference format"),
        ("Busybox", r"repository name \(Busybox\) must be lowercase"),
        (HEX, "cannot specify 64-byte hexadecimal strings"),
        ("a@sha256:12", "invalid digest format"),
        ("a@", "invalid digest format"),
        ("a@md5:" + "0" * 32, "invalid digest format"),
        ("a" * 250, "must not be more than 255 characters"),
        ("a:" + "t" * 129, "invalid reference format"),
    ],
)
def test_what_is_no_reference_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidParameter, match=message):
        parse_reference(text)


def test_latest_is_the_default_only_without_tag_and_digest() -> None:
    assert parse_reference("a").with_default_tag().tag == "latest"
    assert parse_reference("a:1").with_default_tag().tag == "1"
    digested = Reference("docker.io", "library/a", "", f"sha256:{HEX}")
    assert digested.with_default_tag() == digested


@pytest.mark.parametrize(
    "text", ["sha256:" + "A" * 64, "sha256:../../etc/passwd", f"sha512:{HEX}", HEX, f"sha256:{HEX}\n"]
)
def test_only_a_digest_is_a_digest(text: str) -> None:
    assert parse_digest(f"sha256:{HEX}") == f"sha256:{HEX}"
    with pytest.raises(InvalidParameter):
        parse_digest(text)


def test_ids_and_prefixes_of_them() -> None:
    assert id_prefix(f"sha256:{HEX}") == HEX
    assert id_prefix("abc") == "abc"
    assert id_prefix("busybox") == ""
    assert id_prefix("sha256:") == ""


def test_a_tag_alone() -> None:
    assert parse_tag("v1.0-rc_1") == "v1.0-rc_1"
    for bad in ("", "a/b", "a:b", ".a", "x" * 129):
        with pytest.raises(InvalidParameter, match="invalid tag format"):
            parse_tag(bad)
