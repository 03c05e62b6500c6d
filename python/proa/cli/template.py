"""Go templates, for --format: the lexer and the parser. template_run.py evaluates what they build.

All of text/template but define, template and block. Written by hand: importing `re` costs more than a `ps`.
Source: the documentation of Go's text/template.
"""

from proa.cli.failure import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_ESCAPES = {
    "n": "\n",
    "t": "\t",
    "r": "\r",
    "\\": "\\",
    '"': '"',
    "'": "'",
    "a": "\a",
    "b": "\b",
    "f": "\f",
    "v": "\v",
}

_KEYWORDS = frozenset(
    ("if", "else", "end", "range", "with", "break", "continue", "define", "template", "block")
)


class TemplateError(Failure):
    """The template does not parse, or does not fit the value."""


class Node:
    """One node of the tree: its kind, where it is, how it was written, and its parts."""

    __slots__ = ("kind", "parts", "position", "text")

    def __init__(self, kind: str, position: int, text: str, *parts: "Any") -> None:
        self.kind = kind
        self.position = position
        self.text = text
        self.parts = parts


class Pipe:
    """A pipeline: variables to set (declared or assigned) and commands, each a list of operands."""

    __slots__ = ("commands", "declares", "position", "text", "variables")

    def __init__(self, position: int, text: str) -> None:
        self.position = position
        self.text = text
        self.variables: list[str] = []
        self.declares = True
        self.commands: list[list[Node]] = []


class Token:
    """One token inside an action."""

    __slots__ = ("kind", "position", "spaced", "text", "value")

    def __init__(self, kind: str, position: int, text: str, spaced: bool, value: "Any" = None) -> None:
        self.kind = kind
        self.position = position
        self.text = text
        self.spaced = spaced
        self.value = value


def parse(source: str, functions: "dict[str, Any]") -> list[Node]:
    """The nodes of a template. Raises TemplateError."""
    return _Parser(source, functions).run()


class _Parser:
    def __init__(self, source: str, functions: "dict[str, Any]") -> None:
        self.source = source
        self.functions = functions
        self.pieces = _split(source)
        self.index = 0
        self.tokens: list[Token] = []
        self.at = 0
        self.piece_start = 0
        self.variables = ["$"]
        self.loops = 0

    def fail(self, reason: str, position: int | None = None) -> TemplateError:
        line = self.source.count("\n", 0, self.piece_start if position is None else position) + 1
        return TemplateError(f"template: :{line}: {reason}")

    def run(self) -> list[Node]:
        nodes, ended = self.body(())
        if ended is not None:
            raise self.fail(f"unexpected {{{{{ended}}}}}")
        return nodes

    def body(self, until: tuple[str, ...]) -> tuple[list[Node], str | None]:
        """Nodes up to one of the keywords in `until`, whose action stays open; or to the end."""
        nodes: list[Node] = []
        while self.index < len(self.pieces):
            kind, text, start = self.pieces[self.index]
            self.index += 1
            if kind == "text":
                nodes.append(Node("text", start, text))
                continue
            self.piece_start = start
            self.tokens = lex(text, start, self)
            self.at = 0
            word = self.tokens[0].text if self.tokens and self.tokens[0].kind == "name" else ""
            if word in ("end", "else"):
                if word not in until:
                    raise self.fail(f"unexpected {{{{{word}}}}}")
                self.at = 1
                return nodes, word
            nodes.extend(self.action(word))
        if until:
            raise self.fail("unexpected EOF")
        return nodes, None

    def action(self, word: str) -> list[Node]:
        if word in ("if", "with", "range"):
            self.at = 1
            return [self.control(word)]
        if word in ("break", "continue"):
            if not self.loops:
                raise self.fail(f"{{{{{word}}}}} outside {{{{range}}}}")
            return [Node(word, self.piece_start, word)]
        if word in ("define", "template", "block"):
            raise self.fail(f"{{{{{word}}}}} is not supported")
        if not self.tokens:
            raise self.fail("missing value for command")
        pipe = self.pipeline("command")
        self.finish("command")
        return [Node("action", pipe.position, pipe.text, pipe)]

    def control(self, word: str) -> Node:
        depth = len(self.variables)
        start = self.tokens[0].position
        pipe = self.pipeline(word)
        self.finish(word)
        self.loops += word == "range"
        body, ended = self.body(("end", "else"))
        self.loops -= word == "range"
        otherwise: list[Node] = []
        if ended == "else":
            if self.at < len(self.tokens):
                nested = self.tokens[self.at].text
                if nested not in ("if", "with") or (nested != word and word == "range"):
                    raise self.fail(f"unexpected <{nested}> in else")
                self.at += 1
                otherwise = [self.control(nested)]
            else:
                otherwise, _ = self.body(("end",))
        del self.variables[depth:]
        return Node(word, start, pipe.text, pipe, body, otherwise)

    def finish(self, context: str) -> None:
        if self.at < len(self.tokens):
            raise self.fail(f"unexpected {_shown(self.tokens[self.at])} in {context}")

    def pipeline(self, context: str, closing: str = "") -> Pipe:
        first = self.tokens[self.at] if self.at < len(self.tokens) else None
        pipe = Pipe(first.position if first else self.piece_start, "")
        begin = self.at
        self.declarations(pipe, context)
        while True:
            command = self.command(closing)
            if not command:
                raise self.fail(f"missing value for {context}")
            if command[0].kind == "nil" and len(command) == 1:
                raise self.fail("nil is not a command")
            if pipe.commands and command[0].kind in ("bool", "number", "string", "nil", "dot"):
                position = len(pipe.commands) + 1
                raise self.fail(f"non executable command in pipeline stage {position}")
            pipe.commands.append(command)
            if self.at < len(self.tokens) and self.tokens[self.at].text == "|":
                self.at += 1
                continue
            break
        pipe.text = " ".join(token.text for token in self.tokens[begin : self.at])
        return pipe

    def declarations(self, pipe: Pipe, context: str) -> None:
        tokens, at = self.tokens, self.at
        names = []
        while at < len(tokens) and tokens[at].kind == "variable" and not tokens[at].value:
            names.append(tokens[at].text)
            at += 1
            if at < len(tokens) and tokens[at].text in (":=", "="):
                pipe.declares = tokens[at].text == ":="
                if len(names) > (2 if context == "range" else 1):
                    raise self.fail(f"too many declarations in {context}")
                pipe.variables = names
                if pipe.declares:
                    self.variables += names
                self.at = at + 1
                return
            if at < len(tokens) and tokens[at].text == "," and context == "range":
                at += 1
                continue
            return

    def command(self, closing: str) -> list[Node]:
        operands: list[Node] = []
        while self.at < len(self.tokens):
            token = self.tokens[self.at]
            if token.text in ("|", closing) and token.kind == "mark":
                break
            operands.append(self.operand())
        return operands

    def operand(self) -> Node:
        token = self.tokens[self.at]
        self.at += 1
        node = self.term(token)
        fields = []
        chain_position = 0
        while self.at < len(self.tokens):
            following = self.tokens[self.at]
            if following.kind != "field" or following.spaced:
                break
            chain_position = chain_position or following.position
            fields.append(following.value)
            self.at += 1
        if not fields:
            return node
        text = node.text + "".join(f".{name}" for name in fields)
        if node.kind in ("bool", "number", "string", "nil"):
            raise self.fail(f"unexpected . after term {_shown(token)}")
        if node.kind == "field":
            return Node("field", chain_position, text, (*node.parts[0], *fields))
        if node.kind == "variable":
            return Node("variable", node.position, text, node.parts[0], (*node.parts[1], *fields))
        return Node("chain", chain_position, text, node, tuple(fields))

    def term(self, token: Token) -> Node:
        kind, text, position = token.kind, token.text, token.position
        if kind == "field":
            return Node("field", position, text, (token.value,))
        if kind == "variable":
            if text not in self.variables:
                raise self.fail(f"undefined variable {_quoted(text)}")
            return Node("variable", position, text, text, ())
        if kind in ("string", "number"):
            return Node(kind, position, text, token.value)
        if text == ".":
            return Node("dot", position, text)
        if text == "(":
            pipe = self.pipeline("parenthesized pipeline", ")")
            if self.at >= len(self.tokens) or self.tokens[self.at].text != ")":
                raise self.fail("unclosed left paren")
            self.at += 1
            return Node("pipe", position, f"({pipe.text})", pipe)
        if kind == "name":
            if text in ("true", "false"):
                return Node("bool", position, text, text == "true")
            if text == "nil":
                return Node("nil", position, text)
            if text in _KEYWORDS:
                raise self.fail(f"unexpected <{text}> in operand")
            if text not in self.functions:
                raise self.fail(f"function {_quoted(text)} not defined")
            return Node("function", position, text, text)
        raise self.fail(f"unexpected {_shown(token)} in operand")


def _split(source: str) -> list[tuple[str, str, int]]:
    """(kind, text, offset) of text and actions, with trim markers and comments applied."""
    pieces: list[tuple[str, str, int]] = []
    position = 0
    trim_left = False
    while True:
        start = source.find("{{", position)
        text = source[position:] if start < 0 else source[position:start]
        if trim_left:
            text = text.lstrip(" \t\r\n")
        inner = start + 2
        if (
            start >= 0
            and source[inner : inner + 1] == "-"
            and source[inner + 1 : inner + 2] in tuple(" \t\r\n")
        ):
            text = text.rstrip(" \t\r\n")
            inner += 1
        if text:
            pieces.append(("text", text, position))
        if start < 0:
            return pieces
        end = _action_end(source, inner)
        content = source[inner:end]
        trim_left = content.endswith("-") and content[-2:-1] in tuple(" \t\r\n")
        content = content[:-1] if trim_left else content
        if not content.strip().startswith("/*"):
            pieces.append(("action", content, inner))
        position = end + 2


def _action_end(source: str, start: int) -> int:
    """Where the action's `}}` is, not counting those in strings and comments."""
    line = source.count("\n", 0, start) + 1
    position = start
    if source[start:].lstrip().startswith("/*"):
        close = source.find("*/", start)
        if close < 0:
            raise TemplateError(f"template: :{line}: unclosed comment")
        position = close + 2
    while position < len(source):
        char = source[position]
        if source.startswith("}}", position):
            return position
        if char in "\"'`":
            position = _string_end(source, position, line)
            continue
        position += 1
    raise TemplateError(f"template: :{line}: unclosed action")


def _string_end(source: str, start: int, line: int) -> int:
    quote = source[start]
    position = start + 1
    while position < len(source):
        char = source[position]
        if char == "\\" and quote != "`":
            position += 2
            continue
        if char == quote:
            return position + 1
        if char == "\n" and quote != "`":
            break
        position += 1
    names = {
        '"': "unterminated quoted string",
        "`": "unterminated raw quoted string",
        "'": "unterminated character constant",
    }
    raise TemplateError(f"template: :{line}: {names[quote]}")


def lex(text: str, offset: int, parser: _Parser) -> list[Token]:
    """The tokens of one action."""
    tokens: list[Token] = []
    position, spaced = 0, True
    while position < len(text):
        char = text[position]
        if char in " \t\r\n":
            position, spaced = position + 1, True
            continue
        token = _token(text, position, offset, spaced, parser)
        tokens.append(token)
        position += len(token.text)
        spaced = False
    return tokens


def _token(text: str, position: int, offset: int, spaced: bool, parser: _Parser) -> Token:
    char = text[position]
    at = offset + position
    following = text[position + 1 : position + 2]
    if char in "\"'`":
        end = _string_end(text, position, parser.source.count("\n", 0, at) + 1)
        raw = text[position:end]
        value = raw[1:-1] if char == "`" else _unquote(raw[1:-1])
        if char == "'":
            return Token("number", at, raw, spaced, ord(value) if len(value) == 1 else 0)
        return Token("string", at, raw, spaced, value)
    if char == "." and (following.isalpha() or following == "_"):
        end = _word_end(text, position + 1)
        return Token("field", at, text[position:end], spaced, text[position + 1 : end])
    if char == "$":
        end = _word_end(text, position + 1)
        return Token("variable", at, text[position:end], spaced)
    if char.isdigit() or (char in "+-." and following.isdigit()):
        end = position + 1
        while end < len(text) and (
            text[end].isalnum() or text[end] in "._" or (text[end] in "+-" and text[end - 1] in "eE")
        ):
            end += 1
        return Token("number", at, text[position:end], spaced, _number(text[position:end], parser))
    if char.isalpha() or char == "_":
        end = _word_end(text, position)
        return Token("name", at, text[position:end], spaced)
    if text.startswith(":=", position):
        return Token("mark", at, ":=", spaced)
    if char in ".()|,=":
        return Token("mark", at, char, spaced)
    raise parser.fail(f"unexpected {_quoted(char)} in command")


def _word_end(text: str, position: int) -> int:
    while position < len(text) and (text[position].isalnum() or text[position] == "_"):
        position += 1
    return position


def _number(text: str, parser: _Parser) -> int | float:
    for kind in (lambda digits: int(digits, 0), float):
        try:
            return kind(text)
        except ValueError:
            continue
    raise parser.fail(f"bad number syntax: {_quoted(text)}")


def _unquote(text: str) -> str:
    if "\\" not in text:
        return text
    parts = []
    position = 0
    while position < len(text):
        char = text[position]
        position += 1
        if char != "\\":
            parts.append(char)
            continue
        escape = text[position : position + 1]
        position += 1
        digits = {"x": 2, "u": 4, "U": 8}.get(escape, 0)
        if digits:
            parts.append(chr(int(text[position : position + digits], 16)))
            position += digits
        else:
            parts.append(_ESCAPES.get(escape, escape))
    return "".join(parts)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _shown(token: Token) -> str:
    return (
        f"<{token.text}>"
        if token.kind in ("field", "variable", "name") or token.text == "."
        else _quoted(token.text)
    )
