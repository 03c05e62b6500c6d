"""The entry of `proa`: global options, the table of commands, and how the process ends.

A command's module is imported when it is called and not before. The process ends by _exit: there is
nothing that the interpreter would have to tidy up.
"""

import posix
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from proa.cli.flags import Command, Globals

VERSION = "0.1.0"

MODULES = {
    "run": "run",
    "create": "run",
    "exec": "execute",
    "start": "start",
    "attach": "start",
    "ps": "ps",
    "logs": "logs",
    "rm": "containers",
    "stop": "containers",
    "kill": "containers",
    "wait": "containers",
    "inspect": "inspect",
}


def main() -> "NoReturn":
    """Run the command line of this process and end it."""
    argv = sys.argv[1:]
    if argv in (["--version"], ["-v"]):
        posix.write(1, f"proa version {VERSION}\n".encode())
        posix._exit(0)
    end(run(argv))


def end(code: int) -> "NoReturn":
    """End the process; text that was printed goes out first."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            try:
                stream.flush()
            except OSError:
                code = code or 1
    posix._exit(code & 0xFF)


def run(argv: list[str]) -> int:
    """Run a command line; returns the exit code."""
    import _signal  # type: ignore[import-not-found]

    from proa.cli.failure import Failure, HelpRequested

    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    try:
        options, rest = _global_options(argv)
        return dispatch(rest, options)
    except HelpRequested:
        from proa.cli.helptext import show_root

        return show_root()
    except Failure as exc:
        text = str(exc)
        if text:
            _complain(text)
        return exc.code
    except BrokenPipeError:
        _signal.signal(_signal.SIGPIPE, _signal.SIG_DFL)
        posix.kill(posix.getpid(), _signal.SIGPIPE)
        return 141


def _complain(text: str) -> None:
    try:
        posix.write(2, f"{text}\n".encode("utf-8", "surrogateescape"))
    except OSError:
        # Nobody listens any more; the exit code still tells.
        return


def _global_options(argv: list[str]) -> "tuple[Globals, list[str]]":
    from proa.cli.flags import Globals

    if argv and argv[0][:1] != "-":
        return Globals(), argv
    from proa.cli.rootflags import parse_root

    return parse_root(argv)


def dispatch(argv: list[str], options: "Globals") -> int:
    """Find the command and run it."""
    from proa.cli.failure import HelpRequested
    from proa.cli.flags import parse

    command, rest = find(argv)
    if command is None:
        from proa.cli.helptext import show_group

        return show_group(argv, options)
    try:
        parsed = parse(command, rest, options)
    except HelpRequested as exc:
        from proa.cli.helptext import show_command

        return show_command(command, exc.shorthand)
    return command.run(parsed) or 0


def find(argv: list[str]) -> "tuple[Command | None, list[str]]":
    """(the command, what follows its name); None for a group without one, or an unknown name."""
    if not argv:
        return None, argv
    name = argv[0]
    if name not in MODULES:
        from proa.cli.catalogue import GROUPS
        from proa.cli.catalogue import MODULES as ALL

        if name in GROUPS:
            for index, word in enumerate(argv[1:], 1):
                if word[:1] != "-":
                    full = GROUPS[name].get(word)
                    return (
                        (load(ALL[full], full), argv[1:index] + argv[index + 1 :]) if full else (None, argv)
                    )
            return None, argv
        if name not in ALL:
            return None, argv
        return load(ALL[name], name), argv[1:]
    return load(MODULES[name], name), argv[1:]


def load(module: str, name: str) -> "Command":
    """The command `name` of a module of this package."""
    found = __import__(f"proa.cli.{module}", fromlist=("COMMANDS",))
    command: Command = found.COMMANDS[name]
    return command
