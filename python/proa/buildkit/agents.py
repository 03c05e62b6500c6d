"""The client's ssh agents, as sockets for the build's commands: what comes on one goes through the session.

Source: moby/buildkit session/sshforward.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from proa.buildkit import messages
from proa.buildkit.grpc import CallFailed, Calling, ask
from proa.buildkit.sessions import Session

_CHECK: Final = "/moby.sshforward.v1.SSH/CheckAgent"
_FORWARD: Final = "/moby.sshforward.v1.SSH/ForwardAgent"
_STEP: Final = 32 << 10


@asynccontextmanager
async def forwarded(session: Session, ids: Sequence[str], scratch: Path) -> AsyncIterator[dict[str, str]]:
    """Sockets by id, of those agents that the client has, as long as the block lasts."""
    async with AsyncExitStack() as stack:
        found: dict[str, str] = {}
        for id_ in ids if session.serves(_CHECK) else ():
            with suppress(CallFailed):  # the step that needs it says that it is not there
                await ask(session.connection, _CHECK, messages.CheckAgentRequest(ID=id_).SerializeToString())
                forwarding = Forwarding(session, id_)
                path = scratch / f"ssh-{len(found)}"
                await stack.enter_async_context(await asyncio.start_unix_server(forwarding.serve, path))
                stack.push_async_callback(forwarding.close)
                found[id_] = str(path)
        yield found


class Forwarding:
    """One agent; each connection to its socket is a call of its own."""

    def __init__(self, session: Session, id_: str) -> None:
        self._session = session
        self._id = id_
        self._tasks: set[asyncio.Task[None]] = set()

    def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one connection, to its end."""
        task = asyncio.get_running_loop().create_task(self._forward(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """End what is still forwarded."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(CallFailed, ConnectionError):
                metadata = [("buildkit.ssh.id", self._id)]
                async with Calling(self._session.connection, _FORWARD, metadata) as calling:
                    sending = asyncio.ensure_future(_send(reader, calling))
                    try:
                        async for message in calling.messages():
                            writer.write(messages.parsed(messages.BytesMessage, message).data)
                            await writer.drain()
                    finally:
                        sending.cancel()
        finally:
            writer.close()


async def _send(reader: asyncio.StreamReader, calling: Calling) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(_STEP):
            await calling.send(messages.BytesMessage(data=data).SerializeToString())
        calling.end()
