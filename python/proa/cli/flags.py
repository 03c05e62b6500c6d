"""Command lines parsed as Docker's CLI parses them, which is pflag's way.

A flag is a plain tuple, so that a table of a hundred is one constant of the compiled module:
(name, shorthand, kind, default, usage). The kind is pflag's type name; after a colon comes the validator of
values.py. A `!` before the usage hides the flag. Source: the observed behaviour of docker 28.
"""

from proa.cli.failure import BadFlag, Failure, HelpRequested

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

PROGRAM = "proa"

_UNKNOWN = "unknown flag: "

Flag = tuple[str, str, str, str, str]

TRUE = frozenset(("1", "t", "T", "TRUE", "true", "True"))
FALSE = frozenset(("0", "f", "F", "FALSE", "false", "False"))


class Command:
    """One command: how it is called, its flags, and the function that runs it."""

    __slots__ = (
        "aliases",
        "flags",
        "interspersed",
        "long",
        "maximum",
        "minimum",
        "path",
        "run",
        "short",
        "usage",
    )

    def __init__(
        self,
        path: str,
        usage: str,
        short: str,
        run: "Callable[[Parsed], int | None]",
        flags: tuple[Flag, ...] = (),
        minimum: int = 0,
        maximum: int | None = None,
        interspersed: bool = True,
        aliases: str = "",
        long: str = "",
    ) -> None:
        self.path = path
        self.usage = usage
        self.short = short
        self.run = run
        self.flags = flags
        self.minimum = minimum
        self.maximum = maximum
        self.interspersed = interspersed
        self.aliases = aliases
        self.long = long


class Globals:
    """The options before the command's name."""

    __slots__ = ("config", "context", "debug", "hosts", "tls", "tlscacert", "tlscert", "tlskey", "tlsverify")

    def __init__(self) -> None:
        self.config = ""
        self.context = ""
        self.debug = False
        self.hosts: list[str] = []
        self.tls = False
        self.tlsverify = False
        self.tlscacert = ""
        self.tlscert = ""
        self.tlskey = ""


class Parsed:
    """A parsed command line: `values` holds only the flags that were given."""

    __slots__ = ("args", "command", "options", "values")

    def __init__(self, command: Command, options: Globals) -> None:
        self.command = command
        self.options = options
        self.values: dict[str, Any] = {}
        self.args: list[str] = []

    def get(self, name: str, default: "Any" = "") -> "Any":
        """The flag's value, or `default` when it was not given."""
        return self.values.get(name, default)

    def flag(self, name: str) -> bool:
        """A boolean flag that defaults to false."""
        return bool(self.values.get(name, False))


def usage_error(message: str, command: Command, code: int = 125) -> Failure:
    """`message`, the usage line and the pointer to --help, as Docker prints them for a bad flag."""
    path = f"{PROGRAM} {command.path}"
    return Failure(
        f"{message}\n\nUsage:  {path} {command.usage}\n\nRun '{path} --help' for more information", code
    )


def parse(command: Command, argv: list[str], options: Globals) -> Parsed:
    """Parse what follows the command's name.

    Raises Failure in Docker's words, HelpRequested for --help.
    """
    parsed = Parsed(command, options)
    try:
        parsed.args = scan(command.flags, argv, parsed.values, command.interspersed)
    except BadFlag as exc:
        text = str(exc)
        if text.startswith(_UNKNOWN):
            from proa.cli.similar import similar

            names = [f"--{flag[0]}" for flag in command.flags if flag[4][:1] != "!"]
            text = f"{text}\n{similar(text.removeprefix(_UNKNOWN), names)}".removesuffix("\n")
        raise usage_error(text, command) from None
    if parsed.values.pop("help", False):
        raise HelpRequested
    check_count(command, len(parsed.args))
    return parsed


def check_count(command: Command, count: int) -> None:
    """Raises Failure when the command does not take `count` arguments."""
    minimum, maximum = command.minimum, command.maximum
    if count >= minimum and (maximum is None or count <= maximum):
        return
    if maximum == 0:
        wants = "accepts no arguments"
    elif minimum == maximum:
        wants = f"requires {minimum} argument{'s' if minimum != 1 else ''}"
    elif maximum is None:
        wants = f"requires at least {minimum} argument{'s' if minimum != 1 else ''}"
    elif minimum == 0:
        wants = f"requires at most {maximum} argument{'s' if maximum != 1 else ''}"
    else:
        wants = f"requires at least {minimum} and at most {maximum} arguments"
    path = f"{PROGRAM} {command.path}"
    usage = f"{path} {command.usage}".rstrip()
    see = "See" if maximum is None else "Run"
    raise Failure(
        f"{PROGRAM}: '{path}' {wants}\n\nUsage:  {usage}\n\n{see} '{path} --help' for more information"
    )


def scan(flags: tuple[Flag, ...], argv: list[str], values: "dict[str, Any]", interspersed: bool) -> list[str]:
    """Store the flags of `argv` in `values`; returns the arguments.

    Raises BadFlag, HelpRequested.
    """
    longs = {flag[0]: flag for flag in flags}
    shorts = {flag[1]: flag for flag in flags if flag[1]}
    args: list[str] = []
    index, count = 0, len(argv)
    while index < count:
        arg = argv[index]
        index += 1
        if len(arg) < 2 or arg[0] != "-":
            if not interspersed:
                return argv[index - 1 :]
            args.append(arg)
        elif arg == "--":
            args.extend(argv[index:])
            break
        elif arg[1] == "-":
            index = _long(longs, arg, argv, index, values)
        else:
            index = _shorthands(shorts, arg, argv, index, values)
    return args


def _long(longs: dict[str, Flag], arg: str, argv: list[str], index: int, values: "dict[str, Any]") -> int:
    name, equals, value = arg[2:].partition("=")
    if not name or name[0] == "-":
        raise BadFlag(f"bad flag syntax: {arg}")
    flag = longs.get(name)
    if flag is None:
        if name == "help":
            if equals and value in FALSE:
                return index
            raise HelpRequested
        raise BadFlag(f"{_UNKNOWN}--{name}")
    if not equals:
        if flag[2] == "bool":
            value = "true"
        elif index < len(argv):
            value = argv[index]
            index += 1
        else:
            raise BadFlag(f"flag needs an argument: --{name}")
    _set(flag, value, values)
    return index


def _shorthands(
    shorts: dict[str, Flag], arg: str, argv: list[str], index: int, values: "dict[str, Any]"
) -> int:
    rest = arg[1:]
    while rest:
        letter, rest = rest[0], rest[1:]
        flag = shorts.get(letter)
        if flag is None:
            if letter == "h":
                raise HelpRequested(shorthand=True)
            raise BadFlag(f"unknown shorthand flag: {_quote(letter, chr(39))} in {arg}")
        if len(rest) > 1 and rest[0] == "=":
            value, rest = rest[1:], ""
        elif flag[2] == "bool":
            value = "true"
        elif rest:
            value, rest = rest, ""
        elif index < len(argv):
            value = argv[index]
            index += 1
        else:
            raise BadFlag(f"flag needs an argument: {_quote(letter, chr(39))} in {arg}")
        _set(flag, value, values)
    return index


def _set(flag: Flag, value: str, values: "dict[str, Any]") -> None:
    name, shorthand, kind = flag[:3]
    try:
        if kind == "string":
            values[name] = value
        elif kind == "bool":
            values[name] = _boolean(value)
        elif kind == "list":
            values.setdefault(name, []).append(value)
        else:
            from proa.cli.values import convert

            convert(name, kind, value, values)
    except BadFlag as exc:
        label = f"-{shorthand}, --{name}" if shorthand else f"--{name}"
        raise BadFlag(f'invalid argument {_quote(value)} for "{label}" flag: {exc}') from None


def _boolean(value: str) -> bool:
    if value in TRUE:
        return True
    if value in FALSE:
        return False
    raise BadFlag(f"strconv.ParseBool: parsing {_quote(value)}: invalid syntax")


def _quote(text: str, mark: str = '"') -> str:
    """Go's %q, for what people type."""
    escaped = text.replace("\\", "\\\\").replace(mark, "\\" + mark)
    escaped = escaped.replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r")
    return f"{mark}{escaped}{mark}"
