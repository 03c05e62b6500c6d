"""What run, start and exec share: the terminal, and the copying both ways until the output ends."""

import posix

from proa.cli.failure import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from proa.cli.transport import Client, Connection


def check_tty(attach_stdin: bool, tty: bool) -> None:
    """Raises Failure when a tty is to be driven from what is none."""
    if attach_stdin and tty and not posix.isatty(0):
        raise Failure("the input device is not a TTY")


def resize(api: "Client", path: str, rows: int, columns: int) -> None:
    """Tell the daemon the terminal's size; a process that is gone has no use for it."""
    try:
        response = api.request("POST", f"{path}/resize?h={rows}&w={columns}")
        response.read()
        api.release(response)
    except Failure:
        return


def converse(
    connection: "Connection", tty: bool, stdin: int | None, stdout: int | None, stderr: int | None, keys: str
) -> bool:
    """Copy both ways until the output ends; whether the user detached instead."""
    if stdin is None:
        from proa.cli.streams import copy_output

        copy_output(connection, tty, stdout, stderr)
        return False
    from proa.cli.conversation import Conversation, Detached, detach_sequence

    conversation = Conversation(connection, tty, stdin, stdout, stderr, detach_sequence(keys))
    try:
        if tty and posix.isatty(stdin):
            from proa.cli.terminal import RawMode

            with RawMode(stdin):
                conversation.run()
        else:
            conversation.run()
    except Detached:
        return True
    return False
