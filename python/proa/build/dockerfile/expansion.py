"""Words of a Dockerfile: quotes, escapes and variables, as a shell would treat them.

    $name ${name}                       the value, empty where unset
    ${name-word} ${name+word} ${name?word}   word where unset; where set; or an error. With a colon,
                                        an empty one counts as unset
    ${name#pattern} ## % %%             without the shortest or longest beginning or end
    ${name/pattern/text} //             with the first or every match replaced

Source: the Dockerfile reference, "Environment replacement".
"""

import re
from collections.abc import Mapping
from functools import lru_cache

from proa.build.words import go_quoted
from proa.errors import InvalidParameter

_END = ""
_END_SHOWN = "\ufffd"
_SPECIAL = frozenset("@*#?-$!0")


class Words:
    """What one text came to: whole, and split where white space stood outside quotes."""

    __slots__ = ("_building", "_inside", "words")

    def __init__(self) -> None:
        self.words: list[str] = []
        self._building: list[str] = []
        self._inside = False

    def add(self, text: str) -> None:
        """Text that white space splits."""
        for character in text:
            if not character.isspace():
                self.add_raw(character)
            elif self._inside and any(self._building):
                self.end()

    def add_raw(self, text: str) -> None:
        """Text that stays in one word."""
        self._building.append(text)
        self._inside = True

    def end(self) -> list[str]:
        """Close the word at hand; returns the words so far."""
        word = "".join(self._building)
        if word:
            self.words.append(word)
        self._building.clear()
        self._inside = False
        return self.words


class Expander:
    """One reading of one text. Raises InvalidParameter for what cannot be read."""

    def __init__(
        self,
        text: str,
        variables: Mapping[str, str],
        escape: str = "\\",
        *,
        raw_quotes: bool = False,
        raw_escapes: bool = False,
        skip_unset: bool = False,
        quotes: bool = True,
    ) -> None:
        """`raw_*` keep quotes and escapes in the result; `skip_unset` leaves unknown variables as written;

        without `quotes` they are text like any other, as in a heredoc.
        """
        self.text = text
        self.variables = variables
        self.escape = escape
        self.raw_quotes = raw_quotes
        self.raw_escapes = raw_escapes
        self.skip_unset = skip_unset
        self.quotes = quotes
        self.matched: set[str] = set()
        self.unmatched: set[str] = set()
        self._at = 0

    def run(self) -> tuple[str, list[str]]:
        """(the text, its words)."""
        try:
            result, words = self._until(_END, self.raw_escapes)
        except InvalidParameter as exc:
            raise InvalidParameter(f"failed to process {go_quoted(self.text)}: {exc}") from exc
        return result, words.end()

    def _peek(self) -> str:
        return self.text[self._at] if self._at < len(self.text) else _END

    def _next(self) -> str:
        character = self._peek()
        self._at += 1
        return character

    def _until(self, stop: str, raw_escapes: bool) -> tuple[str, Words]:
        before, self.raw_escapes = self.raw_escapes, raw_escapes
        try:
            return self._read_until(stop)
        finally:
            self.raw_escapes = before

    def _read_until(self, stop: str) -> tuple[str, Words]:
        result: list[str] = []
        words = Words()
        while (character := self._peek()) != _END:
            if character == stop:
                self._at += 1
                return "".join(result), words
            if character == "'" and self.quotes:
                piece = self._single_quoted()
                words.add_raw(piece)
            elif character == '"' and self.quotes:
                piece = self._double_quoted()
                words.add_raw(piece)
            elif character == "$":
                piece = self._dollar()
                words.add(piece)
            elif character == "<":
                piece = self._less_than()
                words.add_raw(piece)
            elif character == self.escape:
                piece = self._escaped()
                words.add_raw(piece)
            else:
                piece = self._next()
                words.add(piece)
            result.append(piece)
        if stop != _END:
            raise InvalidParameter(f"unexpected end of statement while looking for matching {stop}")
        return "".join(result), words

    def _escaped(self) -> str:
        kept = self._next() if self.raw_escapes else ""
        if not kept:
            self._at += 1
        return kept + self._next()

    def _less_than(self) -> str:
        """`<<` and the white space before a heredoc's name stay together."""
        start = self._at
        self._at += 1
        if self._peek() == "<":
            self._at += 1
            while self._peek() in ("\t", "\r", " "):
                self._at += 1
        return self.text[start : self._at]

    def _single_quoted(self) -> str:
        end = self.text.find("'", self._at + 1)
        if end < 0:
            raise InvalidParameter("unexpected end of statement while looking for matching single-quote")
        start, self._at = self._at, end + 1
        return self.text[start : end + 1] if self.raw_quotes else self.text[start + 1 : end]

    def _double_quoted(self) -> str:
        quote = '"' if self.raw_quotes else ""
        self._at += 1
        result = [quote]
        while (character := self._peek()) != '"':
            if character == _END:
                raise InvalidParameter("unexpected end of statement while looking for matching double-quote")
            if character == "$":
                result.append(self._dollar())
                continue
            self._at += 1
            if character == self.escape:
                if self.raw_escapes:
                    result.append(character)
                if self._peek() == _END:
                    continue
                # Others than these keep their backslash.
                if self._peek() in ('"', "$", self.escape):
                    character = self._next()
            result.append(character)
        self._at += 1
        return "".join((*result, quote))

    def _dollar(self) -> str:
        self._at += 1
        if self._peek() != "{":
            name = self._name()
            if not name:
                return "$"
            value = self._value(name)
            return f"${name}" if value is None and self.skip_unset else value or ""
        self._at += 1
        if self._peek() == _END:
            raise InvalidParameter("syntax error: missing '}'")
        if self._peek() in "{}:":
            raise InvalidParameter("syntax error: bad substitution")
        return self._braced(self._name())

    def _name(self) -> str:
        first = self._peek()
        start = self._at
        if first != _END and first.isdigit():
            while (character := self._peek()) != _END and character.isdigit():
                self._at += 1
        elif first in _SPECIAL and first != _END:
            self._at += 1
        else:
            while (character := self._peek()) != _END and (character.isalnum() or character == "_"):
                self._at += 1
        return self.text[start : self._at]

    def _value(self, name: str) -> str | None:
        value = self.variables.get(name)
        (self.unmatched if value is None else self.matched).add(name)
        return value

    def _braced(self, name: str) -> str:
        modifier = self._next()
        if modifier == "}":
            value = self._value(name)
            return f"${{{name}}}" if value is None and self.skip_unset else value or ""
        if modifier == "/":
            return self._replaced(name)
        colon = modifier == ":"
        if colon:
            modifier = self._next()
        if modifier not in ("+", "-", "?", "#", "%") or (colon and modifier in "#%"):
            raise InvalidParameter(
                f"unsupported modifier ({':' * colon}{modifier or _END_SHOWN}) in substitution"
            )
        word = self._operand("}", raw=modifier in "#%")
        value = self._value(name)
        if value is None and self.skip_unset:
            return f"${{{name}{':' * colon}{modifier}{word}}}"
        if modifier in "#%":
            return _trimmed(value or "", modifier, word)
        return _chosen(name, value, modifier, word, colon)

    def _operand(self, stop: str, *, raw: bool) -> str:
        try:
            return self._until(stop, raw)[0]
        except InvalidParameter:
            if self._peek() == _END:
                where = "'/' in ${}" if stop == "/" else "'}'"
                raise InvalidParameter(f"syntax error: missing {where}") from None
            raise

    def _replaced(self, name: str) -> str:
        every = self._peek() == "/"
        self._at += every
        pattern = self._operand("/", raw=True)
        text = self._operand("}", raw=True)
        value = self._value(name)
        if value is None and self.skip_unset:
            return f"${{{name}/{pattern}/{text}}}"
        matcher = _pattern(pattern)
        return matcher.sub(lambda match: text, value or "", count=0 if every else 1)


def _chosen(name: str, value: str | None, modifier: str, word: str, colon: bool) -> str:
    missing = value is None or (colon and value == "")
    if modifier == "?":
        if missing:
            state = "empty" if value == "" else "unset"
            raise InvalidParameter(f"{name}: {word or f'is not allowed to be {state}'}")
        return value or ""
    if modifier == "+":
        return "" if missing else word
    return word if missing else value or ""


def _trimmed(value: str, modifier: str, word: str) -> str:
    greedy = word.startswith(modifier)
    if modifier == "#":
        match = _pattern(word[greedy:], greedy=greedy).match(value)
        return value[match.end() :] if match else value
    # An end is the beginning of the reverse.
    match = _pattern(word[greedy:], greedy=greedy, reverse=True).match(value[::-1])
    return value[: len(value) - match.end()] if match else value


@lru_cache(256)
def _pattern(pattern: str, *, greedy: bool = True, reverse: bool = False) -> re.Pattern[str]:
    """A shell pattern of `*`, `?` and escapes (no brackets) as a regular expression.

    What stands between two stars is found where it is first, and not looked for again: so the time is the
    product of the lengths, whatever the pattern.
    """
    parts = [""]
    for piece in _pieces(pattern)[:: -1 if reverse else 1]:
        if piece:
            parts[-1] += piece
        else:
            parts.append("")
    if len(parts) == 1:
        return re.compile(parts[0])
    first, *middle, last = parts
    between = "".join(f"(?>.*?{part})" for part in middle)
    return re.compile(f"{first}{between}{'.*' if greedy else '.*?'}{last}")


def _pieces(pattern: str) -> list[str]:
    """One regular expression for each character that is to be there; empty for any number."""
    out: list[str] = []
    characters = iter(range(len(pattern)))
    for index in characters:
        character = pattern[index]
        following = pattern[index + 1 : index + 2]
        if character == "*":
            out.append("")
        elif character == "?":
            out.append(".")
        elif character == "\\":
            if following and following in "}/":
                continue
            if not following or following not in "*?\\":
                raise InvalidParameter(
                    f"invalid pattern ({pattern}) in substitution: invalid escape '\\{following}'"
                )
            out.append("\\" + following)
            next(characters)
        else:
            out.append(re.escape(character))
    return out


def expand(text: str, variables: Mapping[str, str], escape: str = "\\") -> str:
    """The text with its variables replaced, and without its quotes and escapes."""
    return Expander(text, variables, escape).run()[0]


def expand_words(text: str, variables: Mapping[str, str], escape: str = "\\") -> list[str]:
    """The same, split at white space that stands outside quotes."""
    return Expander(text, variables, escape).run()[1]


def expand_text(text: str, variables: Mapping[str, str]) -> str:
    """A heredoc's text with its variables replaced; quotes stay."""
    return Expander(text, variables, quotes=False).run()[0]
