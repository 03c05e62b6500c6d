"""The help texts: of a command, a group, and proa itself, laid out as Docker's CLI lays them out.

Source: the observed output of docker 28 (cobra's and pflag's usage texts).
"""

import os

from proa.cli.catalogue import COMMON, GROUP_HELP, GROUPS, MODULES, UNLISTED
from proa.cli.failure import Failure
from proa.cli.flags import PROGRAM, Command, Flag, Globals
from proa.cli.main import load
from proa.cli.similar import similar
from proa.cli.table import show

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def show_command(command: Command, shorthand: bool) -> int:
    """`--help`, or the -h that it once was."""
    if shorthand:
        os.write(2, b"Flag shorthand -h has been deprecated, use --help\n")
    path = f"{PROGRAM} {command.path}"
    usage = f"{path} {command.usage}".rstrip()
    text = f"Usage:  {usage}\n\n{command.long or command.short}\n"
    if command.aliases:
        aliases = ", ".join(f"{PROGRAM} {alias}" for alias in command.aliases.split(", "))
        text += f"\nAliases:\n  {aliases}\n"
    options = flag_usages(command.flags, _width())
    if options:
        text += f"\nOptions:\n{options}"
    show(text)
    return 0


def _width() -> int:
    try:
        columns = os.get_terminal_size(0).columns
    except OSError:
        columns = 80
    return columns or 80


def flag_usages(flags: tuple[Flag, ...], width: int) -> str:
    """One entry a flag, in the order of their names, wrapped to `width` columns."""
    rows = []
    for name, shorthand, kind, default, usage in sorted(flags):
        if usage.startswith("!"):
            continue
        left = f"  -{shorthand}, --{name}" if shorthand else f"      --{name}"
        shown = kind.partition(":")[0]
        if shown == "int64":
            shown = "int"
        if shown == "uint64":
            shown = "uint"
        if shown != "bool":
            left += f" {shown}"
        if default:
            usage += f" (default {default})"
        rows.append((left, usage))
    if not rows:
        return ""
    column = max(len(left) for left, _ in rows) + 3
    return "".join(f"{left:<{column}}{wrap(usage, column, width)}\n" for left, usage in rows)


def wrap(text: str, indent: int, width: int) -> str:
    """Break lines where pflag breaks them: a first line of what fits, a slack for a short end."""
    # One column stays free, as in pflag.
    available = width - indent - 1
    if available < 24:
        indent = 16
        available = width - indent - 1
        start = "\n" + " " * indent
    else:
        start = ""
    if available < 24:
        return text.replace("\n", "\n" + " " * indent)
    slack = 5
    available -= slack
    line, rest = _take(available, slack, text)
    out = start + line.replace("\n", "\n" + " " * indent)
    while rest:
        line, rest = _take(available, slack, rest)
        out += "\n" + " " * indent + line.replace("\n", "\n" + " " * indent)
    return out


def _take(limit: int, slack: int, text: str) -> tuple[str, str]:
    if limit + slack > len(text):
        return text, ""
    cut = max(text.rfind(mark, 0, limit) for mark in " \t\n")
    if cut <= 0:
        return text, ""
    newline = text.rfind("\n", 0, limit)
    if 0 < newline < cut:
        return text[:newline], text[newline + 1 :]
    return text[:cut], text[cut + 1 :]


def _listing(rows: list[tuple[str, str]], minimum: int = 0) -> str:
    width = max([minimum, *(len(name) for name, _ in rows)])
    return "".join(f"  {name:<{width}} {short}\n" for name, short in rows)


def show_group(argv: list[str], options: Globals) -> int:
    """A group without a command, a plugin, or a name that is none. Raises Failure."""
    name = argv[0] if argv else ""
    if name == "help":
        return _help(argv[1:], options)
    if name in ("__complete", "__completeNoDesc"):
        from proa.cli.candidates import answer

        return answer(argv[1:], described=name == "__complete")
    if name not in GROUPS:
        _other(argv, options)
    words = [word for word in argv[1:] if word[:1] != "-"]
    path = f"{PROGRAM} {name}"
    if words:
        raise Failure(
            f"{PROGRAM}: unknown command: {path} {words[0]}\n{similar(words[0], [*GROUPS[name]])}\n"
            f"Usage:  {path}\n\n"
            f"Run '{path} --help' for more information"
        )
    unknown = [word for word in argv[1:] if word not in ("--help", "-h")]
    if unknown:
        raise Failure(
            f"unknown flag: {unknown[0]}\n\nUsage:  {path}\n\nRun '{path} --help' for more information",
            125,
        )
    shown = {
        word: full
        for word, full in GROUPS[name].items()
        if word not in UNLISTED and not (word == "ps" and full == "ps")
    }
    rows = [(word, load(MODULES[full], full).short) for word, full in sorted(shown.items())]
    show(
        f"Usage:  {path} COMMAND\n\n{GROUP_HELP[name]}\n\nCommands:\n{_listing(rows, 11)}\n"
        f"Run '{path} COMMAND --help' for more information on a command.\n"
    )
    return 0


def _other(argv: list[str], options: Globals) -> "NoReturn":
    """A plugin takes over, or the name is none. Raises Failure."""
    from proa.cli import plugins

    name = argv[0]
    found = plugins.find(name, options)
    if found:
        plugins.run(found, argv, options)
    known = [command for command in (*MODULES, *GROUPS) if " " not in command]
    why = plugins.ABSENT.get(name)
    hint = f"{why}\n" if why else similar(name, known)
    raise Failure(
        f"{PROGRAM}: unknown command: {PROGRAM} {name}\n{hint}\nRun '{PROGRAM} --help' for more information"
    )


def _help(argv: list[str], options: Globals) -> int:
    from proa.cli.main import find

    if not argv:
        return show_root()
    command, _ = find(argv)
    return show_command(command, False) if command is not None else show_group(argv, options)


def show_root() -> int:
    """`proa` alone, and `proa --help`."""
    from proa.cli.rootflags import ROOT

    top = [name for name in MODULES if " " not in name]
    common = [(name, load(MODULES[name], name).short) for name in COMMON]
    others = [(name, load(MODULES[name], name).short) for name in sorted(top) if name not in COMMON]
    show(
        f"Usage:  {PROGRAM} [OPTIONS] COMMAND\n\n{ROOT.short}\n\nCommon Commands:\n{_listing(common, 11)}\n"
        f"Management Commands:\n{_listing(sorted(GROUP_HELP.items()), 11)}\n"
        f"Commands:\n{_listing(others, 11)}\n"
        f"Global Options:\n{flag_usages(ROOT.flags, _width())}\n"
        f"Run '{PROGRAM} COMMAND --help' for more information on a command.\n"
    )
    return 0
