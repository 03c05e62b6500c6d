"""TLS to registries: which authorities are trusted, which certificates are shown, Go's words for failures.

A context is made once for the same files of the same age: certificates that are renewed on disk are seen by
the next connection.
"""

import os
import ssl
from typing import Final

from msgspec import Struct

from proa.errors import InvalidParameter

_CONTEXTS_MAX: Final = 64
_contexts: "dict[tuple[TLSSettings, tuple[int, ...]], ssl.SSLContext]" = {}


class TLSSettings(Struct, frozen=True, kw_only=True):
    """How one host's certificate is checked and which of ours it is shown."""

    verify: bool = True
    authorities: tuple[str, ...] = ()
    """PEM files trusted beside the system's."""
    clients: tuple[tuple[str, str], ...] = ()
    """(certificate, key) files; key may be empty where the certificate's file holds it."""

    def without_client(self) -> "TLSSettings":
        """For whoever a registry redirects to: what it trusts, and nothing of who we are."""
        return TLSSettings(verify=self.verify, authorities=self.authorities) if self.clients else self

    def context(self) -> ssl.SSLContext:
        """Raises InvalidParameter for files that are missing or no certificates."""
        key = (self, self._ages())
        found = _contexts.get(key)
        if found is None:
            if len(_contexts) >= _CONTEXTS_MAX:
                _contexts.clear()
            found = _contexts[key] = self._made()
        return found

    def _files(self) -> tuple[str, ...]:
        return (*self.authorities, *(path for pair in self.clients for path in pair if path))

    def _ages(self) -> tuple[int, ...]:
        try:
            return tuple(os.stat(path).st_mtime_ns for path in self._files())
        except OSError as exc:
            raise InvalidParameter(f"open {exc.filename}: {(exc.strerror or '').lower()}") from exc

    def _made(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        path = ""
        try:
            for path in self.authorities:
                context.load_verify_locations(path)
            for path, key in self.clients:
                context.load_cert_chain(path, key or None)
        except (OSError, ValueError) as exc:
            raise InvalidParameter(f"certificate {path}: {exc}") from exc
        return context


def tls_failure(exc: OSError) -> tuple[str, bool] | None:
    """(the failure in Go's words, whether the peer talks TLS at all); None where it is none of TLS."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"tls: failed to verify certificate: x509: {exc.verify_message}", True
    if isinstance(exc, ssl.SSLError):
        if exc.reason in (
            "WRONG_VERSION_NUMBER",
            "HTTP_REQUEST",
            "PACKET_LENGTH_TOO_LONG",
            "RECORD_LAYER_FAILURE",
        ):
            return "http: server gave HTTP response to HTTPS client", False
        if isinstance(exc, ssl.SSLEOFError):
            return "EOF", False
        reason = (exc.reason or str(exc)).replace("_", " ").lower()
        return f"remote error: tls: {reason}", True
    return None
