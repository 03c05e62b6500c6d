"""The registry behind every connection: admission, dispatch, errors."""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus

from proa import errors
from proa.distribution import replies
from proa.distribution.access import Htpasswd
from proa.distribution.failures import Code, Refusal
from proa.distribution.manifests import SIZE_MAX
from proa.distribution.paths import Call, resolve
from proa.distribution.pulls import Pulls
from proa.distribution.pushes import Pushes
from proa.distribution.replies import Reply, Response
from proa.http import server as http
from proa.http._request import Request

log = logging.getLogger(__name__)

LIMITS = http.Limits(body_bytes=SIZE_MAX, idle_timeout=120.0)
READS = frozenset(("GET", "HEAD"))

_CODES = {
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: Code.SIZE_INVALID,
    HTTPStatus.SERVICE_UNAVAILABLE: Code.TOOMANYREQUESTS,
}

Handler = Callable[[Call, Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Policy:
    """What the registry's owner allows."""

    read_only: str = ""
    """Why nothing may be written; empty where it may."""
    access: Htpasswd | None = None


class Service(http.Service):
    """What connections ask of the registry."""

    def __init__(self, pulls: Pulls, pushes: Pushes, policy: Policy, limits: http.Limits = LIMITS) -> None:
        super().__init__(limits)
        self._policy = policy
        reads: dict[str, Handler] = {
            "base": pulls.base,
            "catalog": pulls.catalog,
            "tags": pulls.tags,
            "referrers": pulls.referrers,
            "manifest": pulls.manifest,
            "blob": pulls.blob,
            "upload": pushes.status,
        }
        self._handlers: dict[tuple[str, str], Handler] = {
            (method, what): handler for method in READS for what, handler in reads.items()
        }
        self._handlers |= {
            ("POST", "uploads"): pushes.begin,
            ("PATCH", "upload"): pushes.append,
            ("PUT", "upload"): pushes.finish,
            ("DELETE", "upload"): pushes.cancel,
            ("DELETE", "blob"): pushes.delete_blob,
            ("PUT", "manifest"): pushes.put_manifest,
            ("DELETE", "manifest"): pushes.delete_manifest,
        }

    def resolve(self, method: str, path: str) -> tuple[Call, str, int]:
        """(call, nothing, nothing): a call has its names with it."""
        return resolve(method, path), "", 0

    async def answer(self, request: Request) -> Response:
        """Run the request; every failure becomes an answer."""
        call: Call = request.route  # type: ignore[assignment]  # the connection hands back what resolve gave
        try:
            if self._policy.access is not None:
                await self._policy.access.check(request.headers.get("authorization"))
            if call.refusal is not None:
                raise call.refusal
            if self._policy.read_only and request.method not in READS:
                raise Refusal(Code.UNSUPPORTED, self._policy.read_only)
            return await self._handlers[request.method, call.what](call, request)
        except Refusal as refusal:
            return replies.failure(refusal)
        except errors.ProaError as error:
            return translated(error)
        except ConnectionResetError:
            raise
        except Exception as error:
            log.exception("%s %s failed", request.method, request.path)
            return replies.failures(500, "UNKNOWN", f"internal error: {type(error).__name__}")

    def malformed(self, status: int, message: str) -> Reply:
        """The answer to bytes that are no request."""
        code = _CODES.get(HTTPStatus(status), Code.UNSUPPORTED)
        return replies.failures(status, code.value[1], message)


_TRANSLATED: tuple[tuple[type[errors.ProaError], Code, int], ...] = (
    (errors.InvalidParameter, Code.BLOB_UPLOAD_INVALID, 400),
    (errors.Unauthorized, Code.DENIED, 403),
    (errors.Forbidden, Code.DENIED, 403),
    (errors.NotFound, Code.MANIFEST_UNKNOWN, 404),
    (errors.Unavailable, Code.UNAVAILABLE, 503),
    (errors.System, Code.UNKNOWN, 500),
)


def translated(error: errors.ProaError) -> Reply:
    """What another room raised, in the specification's terms."""
    found = ((code, status) for kind, code, status in _TRANSLATED if isinstance(error, kind))
    code, status = next(found, (Code.UNKNOWN, 500))
    if status >= 500:
        log.error("%s", error)
    return replies.failures(status, code.value[1], str(error))
