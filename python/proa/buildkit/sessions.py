"""Sessions: connections on which a client serves, and is asked by the builds that name them.

Source: moby/buildkit session/grpchijack, session/manager.go, session/auth, session/secrets.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from proa.buildkit import grpc, messages
from proa.buildkit.http2 import Connection
from proa.schema.registry import Credentials

_PREFIX: Final = "x-docker-expose-session-"


class Session:
    """One client, as long as its connection lasts."""

    def __init__(self, connection: Connection, headers: Mapping[str, str]) -> None:
        """`headers` of the request that became this."""
        self.id = headers.get(f"{_PREFIX}uuid", "")
        self.shared_key = headers.get(f"{_PREFIX}sharedkey", "")
        methods = headers.get(f"{_PREFIX}grpc-method", "")
        self._methods = {method.strip().lower() for method in methods.split(",")}
        self.connection = connection

    def serves(self, path: str) -> bool:
        """Whether the client has said that it serves this method."""
        return path.lower() in self._methods

    async def ask(self, path: str, request: Any, answer: Any) -> Any:
        """One message for one. Raises CallFailed, StreamReset."""
        return messages.parsed(answer, await grpc.ask(self.connection, path, request.SerializeToString()))

    async def credentials(self, host: str) -> Credentials | None:
        """What the client's configuration has for a registry."""
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

    async def logins(self, hosts: Sequence[str]) -> dict[str, Credentials]:
        """Those that there are, by registry."""
        found = {host: await self.credentials(host) for host in hosts}
        return {host: login for host, login in found.items() if login is not None}

    async def secrets(self, ids: Sequence[str]) -> dict[str, bytes]:
        """Those that the client has, by id. Raises CallFailed."""
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
