"""A Dockerfile's text as nodes: one instruction each, with its flags, arguments, heredocs and lines.

Comments are dropped, lines that end in the escape character continue, heredocs follow the line that names
them. Which arguments an instruction takes is the next module's business.

Source: the Dockerfile reference, "Format", "Parser directives", "Here-documents".
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from proa.build.dockerfile.expansion import Expander
from proa.build.dockerfile.source import DockerfileError, Location
from proa.build.dockerfile.splitting import assignments, split_command, split_words
from proa.errors import InvalidParameter

DIRECTIVES = frozenset(("syntax", "escape", "check"))
MAXIMUM_LINE = 64 * 1024 - 1
"""Bytes of one line, as BuildKit reads them."""

_DIRECTIVE = re.compile(r"#\s*([a-zA-Z][a-zA-Z0-9]*)\s*=\s*(.+?)\s*$")
_HEREDOC = re.compile(r"(\d*)<<(-?)\s*([^<]*)$")
_TABS = re.compile(r"^\t+", re.MULTILINE)
_SPACE = re.compile(r"[\t\v\f\r ]+")


@dataclass(frozen=True, slots=True)
class Heredoc:
    """Text that follows an instruction; `expand` unless its name was quoted, `chomp` for `<<-`."""

    name: str
    content: str
    expand: bool
    chomp: bool

    @property
    def text(self) -> str:
        """The content as it is used: without leading tabs where `<<-` asks for it."""
        return _TABS.sub("", self.content) if self.chomp else self.content


@dataclass(frozen=True, slots=True)
class Node:
    """One instruction as it stands.

    `arguments` of ENV and LABEL are name, value, separator (`=` or nothing) by turns; `trigger` is ONBUILD's.
    """

    keyword: str
    original: str
    location: Location
    flags: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    is_json: bool = False
    heredocs: tuple[Heredoc, ...] = ()
    trigger: "Node | None" = None
    comments: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Lines:
    """A whole file: its instructions, directives, and what it should be warned of."""

    nodes: tuple[Node, ...]
    escape: str
    directives: Mapping[str, str]
    empty_continuations: tuple[Location, ...]


def read_lines(text: str) -> Lines:
    """Read a Dockerfile. Raises DockerfileError."""
    return _Reader(text).read()


class _Reader:
    def __init__(self, text: str) -> None:
        self._lines = [line + "\n" for line in text.removeprefix("\ufeff").split("\n")]
        # What follows the last newline is a line only if there is something.
        self._lines[-1:] = [self._lines[-1][:-1]] if self._lines[-1] != "\n" else []
        self._at = 0
        self._directives: dict[str, str] = {}
        self._may_direct = True
        self._empty: list[Location] = []
        self._comments: list[str] = []
        self._set_escape("\\")

    def _set_escape(self, escape: str) -> None:
        self._escape = escape
        token = re.escape(escape)
        self._continues = re.compile(rf"(?:(?<=[^{token}])|^){token}[ \t]*$")

    def read(self) -> Lines:
        nodes = []
        while (line := self._next_line()) is not None:
            start = self._at
            line = line.lstrip()
            if line.startswith("#"):
                self._comment(line)
                continue
            self._may_direct = False
            if not line:
                continue
            joined = self._join(line)
            if not joined.strip():
                continue
            nodes.append(self._node(joined, start))
            self._comments = []
        if not nodes:
            raise DockerfileError("file with no instructions", Location(max(self._at, 1), max(self._at, 1)))
        return Lines(tuple(nodes), self._escape, self._directives, tuple(self._empty))

    def _next_line(self) -> str | None:
        if self._at == len(self._lines):
            return None
        line = self._lines[self._at].rstrip("\r\n")
        self._at += 1
        if len(line) > MAXIMUM_LINE:
            raise DockerfileError(
                f"dockerfile line greater than max allowed size of {MAXIMUM_LINE}",
                Location(self._at, self._at),
            )
        return line

    def _comment(self, line: str) -> None:
        match = _DIRECTIVE.match(line) if self._may_direct else None
        name = match[1].lower() if match else ""
        if match is None or name not in DIRECTIVES:
            self._may_direct = False
            comment = line[1:].strip()
            self._comments = [*self._comments, comment] if comment else []
            return
        location = Location(self._at, self._at)
        if name in self._directives:
            raise DockerfileError(f"only one {name} parser directive can be used", location)
        self._directives[name] = match[2]
        if name == "escape":
            if match[2] not in ("\\", "`"):
                raise DockerfileError(f"invalid escape token '{match[2]}' does not match ` or \\", location)
            self._set_escape(match[2])

    def _join(self, line: str) -> str:
        """The line with those that it continues on; comments and empty lines between them do not end it."""
        parts = []
        while True:
            continues = self._continues.search(line)
            parts.append(line[: continues.start()] if continues else line)
            if not continues:
                break
            following = self._next_content()
            if following is None:
                break
            line = following
        return "".join(parts)

    def _next_content(self) -> str | None:
        while (line := self._next_line()) is not None:
            if line.lstrip().startswith("#"):
                continue
            if line.strip():
                return line
            self._empty.append(Location(self._at, self._at))
        return None

    def _node(self, line: str, start: int) -> Node:
        here = Location(start, self._at)
        try:
            node = node_of(line, self._escape, here, tuple(self._comments))
            heredocs = self._heredocs(node, line, start)
        except DockerfileError:
            raise
        except InvalidParameter as exc:
            raise DockerfileError(str(exc), here) from exc
        return _with(node, Location(start, self._at), heredocs)

    def _heredocs(self, node: Node, line: str, start: int) -> tuple[Heredoc, ...]:
        owner = node.trigger or node
        if owner.keyword.lower() not in ("add", "copy", "run") or owner.is_json or "<<" not in line:
            return ()
        return tuple(self._heredoc(found, start) for found in _heredocs_named(line))

    def _heredoc(self, named: Heredoc, start: int) -> Heredoc:
        content: list[str] = []
        while self._at < len(self._lines):
            line = self._lines[self._at]
            self._at += 1
            end = line.rstrip("\r\n")
            if (end.lstrip("\t") if named.chomp else end) == named.name:
                return Heredoc(named.name, "".join(content), named.expand, named.chomp)
            content.append(line)
        raise DockerfileError("unterminated heredoc", Location(start, self._at))


def _with(node: Node, location: Location, heredocs: tuple[Heredoc, ...]) -> Node:
    trigger = _with(node.trigger, location, heredocs) if node.trigger else None
    return Node(
        keyword=node.keyword,
        original=node.original,
        location=location,
        flags=node.flags,
        arguments=node.arguments,
        is_json=node.is_json,
        heredocs=heredocs,
        trigger=trigger,
        comments=node.comments,
    )


def heredoc_named(word: str) -> Heredoc | None:
    """The heredoc that a word like `<<-"EOF"` names, its content empty; None for other words."""
    match = _HEREDOC.match(word)
    if match is None or not match[3]:
        return None
    plain = Expander(match[3], {}, skip_unset=True).run()[1]
    if len(plain) != 1:
        return None
    raw = Expander(match[3], {}, raw_quotes=True, skip_unset=True).run()[1]
    return Heredoc(plain[0], "", _quotes(plain[0]) == _quotes(raw[0]), bool(match[2]))


def _quotes(text: str) -> int:
    return text.count("'") + text.count('"')


def _heredocs_named(line: str) -> Iterator[Heredoc]:
    try:
        words = Expander(line, {}, raw_quotes=True, raw_escapes=True, skip_unset=True).run()[1]
    except InvalidParameter:
        # A shell command with quotes of its own kind; it names no heredoc that we could find.
        return
    for word in words:
        if (found := heredoc_named(word)) is not None:
            yield found


# ---- an instruction's arguments, by the form they come in -------------------------------------------


def node_of(line: str, escape: str, location: Location, comments: tuple[str, ...] = ()) -> Node:
    """The node of one whole line; what it names is not looked at. Raises InvalidParameter."""
    keyword, flags, rest = split_command(line, escape)
    form = _FORMS.get(keyword.lower())
    trigger = None
    arguments: list[str] = []
    is_json = False
    if keyword.lower() == "onbuild" and rest:
        trigger = node_of(rest, escape, location)
        arguments = [trigger.keyword, *trigger.arguments]
        is_json = trigger.is_json
    elif form is not None and rest:
        arguments, is_json = form(rest, escape)
    return Node(
        keyword=keyword,
        original=line,
        location=location,
        flags=tuple(flags),
        arguments=tuple(arguments),
        is_json=is_json,
        trigger=trigger,
        comments=comments,
    )


def _json_list(text: str) -> list[str] | None:
    """The strings of a JSON array; None where it is none. Raises InvalidParameter for other elements."""
    if not text.lstrip().startswith("["):
        return None
    try:
        found = json.loads(text)
    except ValueError:
        return None
    if not all(isinstance(item, str) for item in found):
        raise InvalidParameter("when using JSON array syntax, arrays must be comprised of strings only")
    return list(found)


def _command(text: str, escape: str) -> tuple[list[str], bool]:
    found = _json_list(text)
    return ([text], False) if found is None else (found, True)


def _paths(text: str, escape: str) -> tuple[list[str], bool]:
    found = _json_list(text)
    return (_SPACE.split(text), False) if found is None else (found, True)


def _separated(text: str, escape: str) -> tuple[list[str], bool]:
    return _SPACE.split(text), False


def _whole(text: str, escape: str) -> tuple[list[str], bool]:
    return [text], False


def _words(text: str, escape: str) -> tuple[list[str], bool]:
    return split_words(text, escape), False


def _health(text: str, escape: str) -> tuple[list[str], bool]:
    kind, *rest = text.split(None, 1)
    if not rest:
        return [kind], False
    arguments, is_json = _command(rest[0], escape)
    return [kind, *arguments], is_json


def _pairs(name: str) -> Callable[[str, str], tuple[list[str], bool]]:
    def form(text: str, escape: str) -> tuple[list[str], bool]:
        return assignments(text, name, escape), False

    return form


_FORMS: Mapping[str, Callable[[str, str], tuple[list[str], bool]]] = {
    "add": _paths,
    "arg": _words,
    "cmd": _command,
    "copy": _paths,
    "entrypoint": _command,
    "env": _pairs("ENV"),
    "expose": _separated,
    "from": _separated,
    "healthcheck": _health,
    "label": _pairs("LABEL"),
    "maintainer": _whole,
    "run": _command,
    "shell": _command,
    "stopsignal": _whole,
    "user": _whole,
    "volume": _paths,
    "workdir": _whole,
}
