"""What may follow on an unfinished command line: the answer to the shells' completion scripts.

The protocol is that of Docker's CLI, so that its scripts work, too: `__complete WORD...`
with the word at the cursor last; a line for each candidate, behind a tab what it is, and `:N` last, whose
bits say what the shell makes of them. No daemon is started for it, and what fails gives no candidates.
Source: cobra, "Generating shell completions"; the observed output of docker 28.
"""

import sys

from proa.cli.catalogue import GROUP_HELP, GROUPS, MODULES, UNLISTED
from proa.cli.completion_values import ARGUMENTS, NO_FILES, Candidates, argument_values, flag_values
from proa.cli.failure import Failure, HelpRequested
from proa.cli.flags import Command, Flag, Globals
from proa.cli.main import find, load

ERROR = 1

# Kinds of flags that may be given once.
_SINGLE = ("bool", "string", "int", "int64", "uint64", "bytes", "duration", "decimal")


def answer(words: list[str], described: bool) -> int:
    """`proa __complete` and `proa __completeNoDesc`: print the candidates."""
    try:
        found = _candidates(words or [""])
    except (Failure, HelpRequested, OSError, ValueError):
        found = Candidates((), ERROR)
    lines = []
    for name, text in found.rows:
        short = text.partition("\n")[0]
        lines.append(f"{name}\t{short}\n" if described and short else f"{name}\n")
    sys.stdout.write("".join(lines) + f":{found.directive}\n")
    return 0


class _Position:
    """Where a command line stands before the word at the cursor."""

    __slots__ = ("args", "first", "given", "open", "pending")

    def __init__(self) -> None:
        self.pending: Flag | None = None
        """The flag whose value comes next."""
        self.args: list[str] = []
        self.first = -1
        """Where the first argument stands."""
        self.given: set[str] = set()
        self.open = True
        """Whether flags may still come."""


def _walk(flags: tuple[Flag, ...], words: list[str], interspersed: bool) -> _Position:
    """Go over finished words; what does not parse is passed over."""
    longs = {flag[0]: flag for flag in flags}
    shorts = {flag[1]: flag for flag in flags if flag[1]}
    at = _Position()
    for index, word in enumerate(words):
        if at.pending is not None:
            at.pending = None
        elif at.open and word == "--":
            at.open = False
        elif not at.open or len(word) < 2 or word[0] != "-":
            at.args.append(word)
            at.first = index if at.first < 0 else at.first
            at.open = at.open and interspersed
        elif word[1] == "-":
            name, equals, _ = word[2:].partition("=")
            at.given.add(name)
            flag = longs.get(name)
            at.pending = flag if flag and flag[2] != "bool" and not equals else None
        else:
            at.pending = _shorthands(shorts, word[1:], at.given)
    return at


def _shorthands(shorts: dict[str, Flag], letters: str, given: set[str]) -> Flag | None:
    """The flag of `-itv` that waits for its value in the next word."""
    for index, letter in enumerate(letters):
        flag = shorts.get(letter)
        if flag is None:
            return None
        given.add(flag[0])
        if flag[2] != "bool":
            return flag if index == len(letters) - 1 else None
    return None


def _candidates(words: list[str]) -> Candidates:
    from proa.cli.rootflags import ROOT, parse_root

    current = words[-1]
    at = _walk(ROOT.flags, words[:-1], interspersed=False)
    if at.first < 0:
        return _of_flags(ROOT, at, current, Globals()) or _named(current, _commands())
    options = parse_root(words[: at.first + 1])[0] if at.first else Globals()
    command, following = find(words[at.first : -1])
    if command is None:
        return _of_group(words[at.first : -1], current)
    at = _walk(command.flags, following, command.interspersed)
    return _of_flags(command, at, current, options) or _of_arguments(command, at, current, options)


def _of_group(words: list[str], current: str) -> Candidates:
    """The commands of a group; nothing for a name that is none."""
    if words[0] == "help":
        return _of_group(words[1:], current) if words[1:] else _named(current, _commands())
    if words[1:] or words[0] not in GROUPS:
        return Candidates((), NO_FILES)
    members = {name: full for name, full in GROUPS[words[0]].items() if name not in UNLISTED}
    return _named(
        current, [(name, load(MODULES[full], full).short) for name, full in sorted(members.items())]
    )


def _commands() -> list[tuple[str, str]]:
    commands = [(name, load(MODULES[name], name).short) for name in MODULES if " " not in name]
    return sorted([*commands, *GROUP_HELP.items(), ("help", "Help about any command")])


def _named(current: str, rows: list[tuple[str, str]]) -> Candidates:
    return Candidates(tuple(row for row in rows if row[0].startswith(current)), NO_FILES)


def _of_flags(command: Command, at: _Position, current: str, options: Globals) -> Candidates | None:
    """A flag's name or value; None where an argument is to come."""
    if at.pending is not None:
        return flag_values(command, at.pending, current, options)
    if not at.open or current[:1] != "-":
        return None
    if current[:2] == "--" and "=" in current:
        name, _, value = current[2:].partition("=")
        for flag in command.flags:
            if flag[0] == name:
                return flag_values(command, flag, value, options)
        return Candidates((), NO_FILES)
    rows = []
    for name, shorthand, kind, _, usage in sorted(command.flags):
        if usage[:1] == "!" or (name in at.given and kind in _SINGLE):
            continue
        rows.append((f"--{name}", usage))
        if shorthand and current[:2] != "--":
            rows.append((f"-{shorthand}", usage))
    if not any(name == "--help" for name, _ in rows):
        rows.append(("--help", "Print usage"))
    return _named(current, rows)


def _of_arguments(command: Command, at: _Position, current: str, options: Globals) -> Candidates:
    kinds = ARGUMENTS.get(command.path, ())
    number = len(at.args)
    if not kinds or (number >= len(kinds) and kinds[-1][-1:] != "*"):
        return Candidates((), NO_FILES)
    kind = kinds[min(number, len(kinds) - 1)]
    return argument_values(kind.rstrip("*"), current, options, set(at.args))
