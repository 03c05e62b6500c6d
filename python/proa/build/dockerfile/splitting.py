"""One line of a Dockerfile into keyword, flags and words. Quotes and escapes stay for later.

Source: the Dockerfile reference, "Format".
"""

import re
from collections.abc import Iterator

from proa.errors import InvalidParameter

_SPACE = re.compile(r"[\t\v\f\r ]+")


def split_command(line: str, escape: str) -> tuple[str, list[str], str]:
    """(keyword, flags without quotes, the rest)."""
    keyword, *rest = _SPACE.split(line.strip(), maxsplit=1)
    if not rest:
        return keyword, [], ""
    flags, arguments = _flags(rest[0], escape)
    return keyword, flags, arguments.strip()


def _flags(text: str, escape: str) -> tuple[list[str], str]:
    """Words that begin with `--` at the start of a text, and what follows them; `--` alone ends them."""
    flags: list[str] = []
    at = 0
    while True:
        while at < len(text) and text[at].isspace():
            at += 1
        if not text.startswith("--", at):
            return flags, text[at:]
        word, quoted, at = _flag(text, at, escape)
        if word == "--" and not quoted:
            return flags, text[at:]
        if word or quoted:
            flags.append(word)


def _flag(text: str, at: int, escape: str) -> tuple[str, bool, int]:
    """One word without its quotes and escapes, whether it had quotes, and where it ends."""
    word: list[str] = []
    quote = ""
    quoted = False
    while at < len(text):
        character = text[at]
        if not quote and character.isspace():
            break
        at += 1
        if character == quote:
            quote = ""
        elif not quote and character in "'\"":
            quote, quoted = character, True
        elif character == escape:
            if at < len(text):
                word.append(text[at])
                at += 1
        else:
            word.append(character)
    return "".join(word), quoted, at


def split_words(text: str, escape: str) -> list[str]:
    """Words separated by white space outside quotes; quotes and escapes are kept."""
    return list(_words(text, escape))


def _words(text: str, escape: str) -> Iterator[str]:
    word: list[str] = []
    quote = ""
    characters = iter(range(len(text)))
    for at in characters:
        character = text[at]
        if not quote and character.isspace():
            if word:
                yield "".join(word)
            word = []
            continue
        if character == escape and quote != "'":
            # At the end it means nothing; before any other character both are kept.
            if at + 1 < len(text):
                word += (character, text[next(characters)])
            continue
        if character == quote:
            quote = ""
        elif not quote and character in "'\"":
            quote = character
        word.append(character)
    if word:
        yield "".join(word)


def assignments(text: str, keyword: str, escape: str) -> list[str]:
    """The pairs of ENV and LABEL, flat: name, value, separator; `name value`, the old form, has none."""
    words = split_words(text, escape)
    if not words:
        return []
    if "=" not in words[0]:
        parts = _SPACE.split(text, maxsplit=1)
        if len(parts) < 2:
            raise InvalidParameter(f"{keyword} must have two arguments")
        return [parts[0], parts[1], ""]
    found = []
    for word in words:
        name, separator, value = word.partition("=")
        if not separator:
            raise InvalidParameter(
                f'Syntax error - can\'t find = in "{word}". Must be of the form: name=value'
            )
        found += [name, value, separator]
    return found
