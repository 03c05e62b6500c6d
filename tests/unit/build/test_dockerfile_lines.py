"""Lines of a Dockerfile: comments, continuations, directives, heredocs, forms of arguments."""

import pytest

from proa.build.dockerfile.lines import read_lines
from proa.build.dockerfile.source import DockerfileError, Location, excerpt


def only(text: str):  # type: ignore[no-untyped-def]
    """The one instruction of a text."""
    (node,) = read_lines(text).nodes
    return node


def test_lines_continue_over_comments_and_empty_lines() -> None:
    lines = read_lines("FROM x\nRUN a \\\n# not this\n\n  && b \\  \n&& c\nCMD d\n")
    _, run, cmd = lines.nodes
    assert run.arguments == ("a   && b && c",)
    assert (run.location, cmd.location) == (Location(2, 6), Location(7, 7))
    assert lines.empty_continuations == (Location(4, 4),)


def test_an_escaped_escape_does_not_continue_a_line() -> None:
    first, second = read_lines("RUN a \\\\\nRUN b").nodes
    assert (first.arguments, second.arguments) == (("a \\\\",), ("b",))


def test_the_escape_directive_changes_what_continues_a_line() -> None:
    lines = read_lines("# syntax=docker/dockerfile:1\n# escape=`\nFROM x\nRUN dir c:\\ `\n && y")
    assert lines.escape == "`"
    assert lines.directives == {"syntax": "docker/dockerfile:1", "escape": "`"}
    assert lines.nodes[1].arguments == ("dir c:\\  && y",)


def test_directives_end_with_the_first_other_line() -> None:
    lines = read_lines("# hello\n# escape=`\nFROM x")
    assert (lines.escape, lines.directives) == ("\\", {})


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("# escape=x\nFROM a", "invalid escape token 'x' does not match ` or \\"),
        ("# escape=`\n# escape=`\nFROM a", "only one escape parser directive can be used"),
        ("", "file with no instructions"),
        ("# only a comment\n", "file with no instructions"),
        ("FROM a\nENV x", "ENV must have two arguments"),
        (
            "FROM a\nENV a=b c",
            'Syntax error - can\'t find = in "c". Must be of the form: name=value',
        ),
        (
            'CMD ["a", 1]',
            "when using JSON array syntax, arrays must be comprised of strings only",
        ),
        ("FROM a\nRUN <<EOF\nx\n", "unterminated heredoc"),
        ("RUN " + "x" * 70000, "dockerfile line greater than max allowed size of 65535"),
    ],
)
def test_errors(text: str, complaint: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        read_lines(text)
    assert str(caught.value) == complaint


def test_heredocs_follow_the_line_that_names_them() -> None:
    text = 'COPY <<a <<-"b c" /to/\none $x\na\n\ttwo\n\tb c\nRUN <<EOF cat\nthree\n#no comment\nEOF\nUSER me'
    copy, run, user = read_lines(text).nodes
    first, second = copy.heredocs
    assert (first.name, first.text, first.expand) == ("a", "one $x\n", True)
    assert (second.name, second.text, second.expand) == ("b c", "two\n", False)
    assert run.heredocs[0].text == "three\n#no comment\n"
    assert (copy.location, run.location, user.location) == (Location(1, 5), Location(6, 9), Location(10, 10))


def test_a_shift_in_a_shell_command_is_no_heredoc() -> None:
    node = only("RUN echo $((1<<2)) && cat <<< word")
    assert node.heredocs == ()


def test_onbuild_holds_an_instruction() -> None:
    node = only("ONBUILD COPY --chown=1:2 <<f /x\nhi\nf\n")
    assert node.trigger is not None
    assert (node.trigger.keyword, node.trigger.flags) == ("COPY", ("--chown=1:2",))
    assert node.heredocs[0].text == "hi\n"


@pytest.mark.parametrize(
    ("line", "flags", "arguments", "is_json"),
    [
        ('CMD ["a", "b c"]', (), ("a", "b c"), True),
        ("CMD ['a']", (), ("['a']",), False),
        ("CMD [ -f x ]", (), ("[ -f x ]",), False),
        ("COPY a\tb  c", (), ("a", "b", "c"), False),
        ("RUN --mount=a --network='none' x --y", ("--mount=a", "--network=none"), ("x --y",), False),
        ("RUN -- --x", (), ("--x",), False),
        ("ENV a b c", (), ("a", "b c", ""), False),
        ("ENV a=b\\ c d='e f'", (), ("a", "b\\ c", "=", "d", "'e f'", "="), False),
        ("ARG a b=c", (), ("a", "b=c"), False),
        ("HEALTHCHECK --interval=1s CMD [\"x\"]", ("--interval=1s",), ("CMD", "x"), True),
        ("healthcheck none", (), ("none",), False),
        ("FROM  a  AS  b", (), ("a", "AS", "b"), False),
    ],
)  # fmt: skip
def test_forms(line: str, flags: tuple[str, ...], arguments: tuple[str, ...], is_json: bool) -> None:
    node = only(line)
    assert (node.flags, node.arguments, node.is_json) == (flags, arguments, is_json)


def test_windows_line_ends_and_a_byte_order_mark_are_no_part_of_it() -> None:
    first, second = read_lines("\ufeffFROM x\r\nRUN a \\\r\n b\r\n").nodes
    assert (first.arguments, second.arguments) == (("x",), ("a  b",))


def test_an_error_shows_its_lines() -> None:
    text = "FROM x\n\nFOO y\nCMD z\n"
    assert excerpt("Dockerfile", text, Location(3, 3)) == (
        "Dockerfile:3\n--------------------\n"
        "   1 |     FROM x\n   2 |     \n   3 | >>> FOO y\n   4 |     CMD z\n   5 |     \n"
        "--------------------\n"
    )


@pytest.mark.parametrize(
    ("first", "last", "shown"),
    [
        (1, 1, range(1, 4)),
        (2, 2, range(1, 5)),
        (5, 5, range(3, 8)),
        (4, 5, range(3, 7)),
        (9, 9, range(7, 11)),
    ],
)
def test_as_much_is_shown_around_as_buildkit_shows(first: int, last: int, shown: range) -> None:
    text = "".join(f"RUN {number}\n" for number in range(1, 10))
    lines = excerpt("Dockerfile", text, Location(first, last)).splitlines()[2:-1]
    assert [int(line.partition("|")[0]) for line in lines] == list(shown)
