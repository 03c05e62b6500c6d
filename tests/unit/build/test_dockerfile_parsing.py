"""Instructions of a Dockerfile: what each one takes and refuses."""

import pytest

from proa.build.dockerfile import instructions as it
from proa.build.dockerfile.mounts import Mount, MountType, parse_mount
from proa.build.dockerfile.parsing import parse_dockerfile, parse_trigger
from proa.build.dockerfile.source import DockerfileError, Location
from proa.errors import InvalidParameter


def one(line: str):  # type: ignore[no-untyped-def]
    """The instruction that follows a FROM."""
    (stage,) = parse_dockerfile(f"FROM x\n{line}").stages
    (instruction,) = stage.instructions
    return instruction


def test_arguments_before_the_first_stage_stand_apart() -> None:
    file = parse_dockerfile("ARG v=1\nFROM --platform=$BUILDPLATFORM a:$v AS Base\nRUN x\nFROM base\nCMD y")
    assert file.arguments[0].arguments == (it.Argument("v", "1"),)
    base, last = file.stages
    assert (base.start.image, base.start.name, base.start.platform) == ("a:$v", "base", "$BUILDPLATFORM")
    assert [type(found) for found in base.instructions] == [it.Run]
    assert last.start.image == "base"


def test_copy_and_add() -> None:
    copy = one("COPY --from=b --chown=1:2 --chmod=0755 --link --parents --exclude=*.o --exclude=x a b /c/")
    assert (copy.sources.paths, copy.sources.target, copy.from_) == (("a", "b"), "/c/", "b")
    assert (copy.chown, copy.chmod, copy.link, copy.parents) == ("1:2", "0755", True, True)
    assert copy.exclude == ("*.o", "x")
    add = one("ADD --checksum=sha256:ab --unpack=false https://example.com/a /b")
    assert (add.checksum, add.unpack, add.keep_git_dir) == ("sha256:ab", False, None)


def test_files_of_heredocs() -> None:
    copy = one("COPY a <<'f' /to/\ntext\nf")
    assert copy.sources.paths == ("a",)
    assert [(file.name, file.text, file.expand) for file in copy.sources.files] == [("f", "text\n", False)]


def test_commands() -> None:
    run = one("RUN --network=none --mount=type=cache,target=/c a b")
    assert (run.command.words, run.command.shell, run.network) == (("a b",), True, "none")
    assert one('ENTRYPOINT ["a", "b"]').command == it.CommandLine(words=("a", "b"), shell=False)
    assert one("CMD []").command == it.CommandLine(words=(), shell=False)


def test_healthchecks() -> None:
    check = one("HEALTHCHECK --interval=1m --timeout=3s --retries=2 CMD curl x").check
    assert (check.test, check.interval, check.timeout, check.retries) == (
        ["CMD-SHELL", "curl x"],
        60 * 10**9,
        3 * 10**9,
        2,
    )
    assert one("HEALTHCHECK NONE").check.test == ["NONE"]


def test_a_trigger_is_kept_as_text_and_read_again() -> None:
    text = one("onbuild  COPY <<f /x\nhi\nf").expression
    assert text == "COPY <<f /x\nhi\nf"
    copy = parse_trigger(text, Location(1, 1))
    assert isinstance(copy, it.Copy)
    assert copy.sources.files[0].text == "hi\n"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("FORM x", "line 1: unknown instruction: FORM (did you mean FROM?)"),
        ("FROM x\nXYZZY", "line 2: unknown instruction: XYZZY"),
        ("FROM x\nFOO y", "line 2: unknown instruction: FOO (did you mean FROM?)"),
        ("FROM x\nHEALTHCHECK --interval=1 CMD x", 'line 2: time: missing unit in duration "1"'),
        ("FROM x\nHEALTHCHECK --interval=1d CMD x", 'line 2: time: unknown unit "d" in duration "1d"'),
        ("FROM", "line 1: FROM requires either one or three arguments"),
        ("FROM a as 1b", 'line 1: invalid name for build stage: "1b", name can\'t start with a number'),
        ("FROM x\nCOPY a", "line 2: COPY requires at least two arguments, but only one was provided."),
        ("FROM x\nCOPY --fron=a b c", "line 2: unknown flag: --fron (did you mean from?)"),
        ("FROM x\nCOPY --link=maybe b c", "line 2: expecting boolean value for flag --link, not: maybe"),
        ("FROM x\nCOPY --chown b c", "line 2: missing a value on flag: --chown"),
        ("FROM x\nCOPY --chown=1 --chown=2 b c", "line 2: duplicate flag specified: --chown"),
        ("FROM x\nCOPY a <<b\nb", "line 2: COPY cannot accept a heredoc as a destination"),
        ("FROM x\nWORKDIR", "line 2: WORKDIR requires exactly one argument"),
        ("FROM x\nEXPOSE", "line 2: EXPOSE requires at least one argument"),
        ("FROM x\nSHELL sh", "line 2: SHELL requires the arguments to be in JSON form"),
        ("FROM x\nONBUILD ONBUILD RUN x", "line 2: Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"),
        ("FROM x\nONBUILD FROM y", "line 2: FROM isn't allowed as an ONBUILD trigger"),
        ("FROM x\nHEALTHCHECK NONE x", "line 2: HEALTHCHECK NONE takes no arguments"),
        ("FROM x\nHEALTHCHECK FOO x", 'line 2: Unknown type "FOO" in HEALTHCHECK (try CMD)'),
        ("FROM x\nHEALTHCHECK CMD", "line 2: Missing command after HEALTHCHECK CMD"),
        ("FROM x\nHEALTHCHECK --retries=-1 CMD x", "line 2: --retries cannot be negative (-1)"),
        ("FROM x\nHEALTHCHECK --interval=1us CMD x", 'line 2: Interval "interval" cannot be less than 1ms'),
        ("FROM x\nRUN --network=foo x", 'line 2: invalid network mode "foo"'),
        ("FROM x\nRUN --security=foo x", 'line 2: security "foo" is not valid'),
        ("FROM x\nENV =y", "line 2: ENV names can not be blank"),
        ('FROM x\nVOLUME [""]', "line 2: VOLUME specified can not be an empty string"),
    ],
)
def test_refusals(text: str, complaint: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        parse_dockerfile(text)
    assert str(caught.value).startswith(f"dockerfile parse error on {complaint}")


@pytest.mark.parametrize("text", ["RUN x", "RUN x\nFROM y"])
def test_nothing_comes_before_a_stage(text: str) -> None:
    with pytest.raises(DockerfileError, match=r"^no build stage in current context$"):
        parse_dockerfile(text)


def test_mounts() -> None:
    cache = parse_mount(
        "type=cache,target=$d,sharing=locked,mode=0700,uid=1", lambda text: text.replace("$d", "/c")
    )
    assert cache == Mount(
        type=MountType.CACHE, target="/c", sharing="locked", mode=0o700, uid=1, read_only=False
    )
    assert parse_mount("from=a,source=b,target=/c", str).read_only
    assert not parse_mount("target=/c,rw", str).read_only
    assert parse_mount("type=tmpfs,target=/t,size=1m", str).size == 1 << 20
    assert parse_mount("type=secret,id=x,env=X,required", str).required


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("type=foo", 'unsupported mount type "foo"'),
        ("target=/x,foo=1", "unexpected key 'foo' in 'foo=1'"),
        ("target", "invalid field 'target' must be a key=value pair"),
        ("type=cache,target=/x,sharing=all", 'unsupported sharing value "all"'),
        ("target=/x,sharing=shared", "invalid cache sharing set for bind mount"),
        ("target=/x,size=1", "unexpected key 'size' for mount type 'bind'"),
        ("target=/x,mode=1", 'mode not allowed for "bind" type mounts'),
        ("type=secret", "invalid secret mount. one of source, target required"),
        ("type=secret,id=a,source=b", "both source and id can't be set"),
        ("type=cache,target=/x,uid=-1", "invalid value -1 for uid"),
    ],
)
def test_mounts_that_cannot_be(text: str, complaint: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        parse_mount(text, str)
    assert str(caught.value) == complaint
