"""Sessions: connections on which a client serves, and is asked by the builds that name it.

Source: moby/buildkit session/grpchijack, session/manager.go, session/auth, session/secrets.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

from proa.buildkit import grpc
from proa.buildkit.http2 import Connection
from proa.errors import InvalidParameter
from proa.schema.registry import Credentials

PATIENCE: Final = 5.0
"""Seconds that a build waits for its session: client and build come on two connections."""
_PREFIX: Final = "x-docker-expose-session-"


class Session:
    """One client, as long as its connection lasts."""

    def __init__(self, connection: Connection, headers: Mapping[str, str]) -> None:
        """`headers` of the request that became this. Raises InvalidParameter."""
        self.id = headers.get(f"{_PREFIX}uuid", "")
        if not self.id:
            raise InvalidParameter("no session id")
        self.shared_key = headers.get(f"{_PREFIX}sharedkey", "")
        methods = headers.get(f"{_PREFIX}grpc-method", "")
        self._methods = {method.strip().lower() for method in methods.split(",")}
        self.connection = connection

    def serves(self, path: str) -> bool:
        """Whether the client has said that it serves this method."""
        return path.lower() in self._methods

    async def ask(self, path: str, request: Any, answer: Any) -> Any:
        """One message for one. Raises CallFailed, StreamReset."""
        return answer.FromString(await grpc.ask(self.connection, path, request.SerializeToString()))

    async def credentials(self, host: str) -> Credentials | None:
        """What the client's configuration has for a registry."""
        from proa.buildkit import messages

        path = "/moby.filesync.v1.Auth/Credentials"
        if not self.serves(path):
            return None
        asked = messages.CredentialsRequest(Host="registry-1.docker.io" if host == "docker.io" else host)
        try:
            found = await self.ask(path, asked, messages.CredentialsResponse)
        except grpc.CallFailed:
            return None
        if not found.Secret:
            return None
        if not found.Username:
            return Credentials(identity_token=found.Secret)
        return Credentials(username=found.Username, password=found.Secret)

    async def secrets(self, ids: Sequence[str]) -> dict[str, bytes]:
        """Those that the client has, by id. Raises CallFailed."""
        from proa.buildkit import messages

        path = "/moby.buildkit.secrets.v1.Secrets/GetSecret"
        found = {}
        for id_ in ids if self.serves(path) else ():
            try:
                asked = messages.GetSecretRequest(ID=id_)
                found[id_] = (await self.ask(path, asked, messages.GetSecretResponse)).data
            except grpc.CallFailed as exc:
                # What is not there is said by the step that needs it.
                if exc.code != grpc.NOT_FOUND and "not found" not in str(exc):
                    raise
        return found


class Sessions:
    """Those that are there, by id."""

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}
        self._arrived = asyncio.Condition()

    def check(self, session: Session) -> None:
        """Raises InvalidParameter for a second one of an id."""
        if session.id in self._sessions:
            raise InvalidParameter(f"session {session.id} is there already")

    async def add(self, session: Session) -> None:
        """It is there until its connection ends."""
        self._sessions[session.id] = session
        session.connection.closed.add_done_callback(lambda _: self._remove(session))
        async with self._arrived:
            self._arrived.notify_all()

    def _remove(self, session: Session) -> None:
        if self._sessions.get(session.id) is session:
            del self._sessions[session.id]

    async def find(self, id_: str) -> Session:
        """The session, as soon as it is there. Raises InvalidParameter."""
        try:
            async with asyncio.timeout(PATIENCE), self._arrived:
                await self._arrived.wait_for(lambda: id_ in self._sessions)
        except TimeoutError as exc:
            raise InvalidParameter(f"no active session for {id_}: context deadline exceeded") from exc
        return self._sessions[id_]
