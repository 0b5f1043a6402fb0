"""TLS for the server: a certificate that is loaded again when its files change."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

from loguru import logger

from memtrace_cli import output
from memtrace_cli.settings import Server, SettingsError

LOOK_SECONDS = 2.0


class Certificate:
    """A certificate and its key, in PEM files.

    Raises:
        SettingsError: they cannot be read, or do not belong together.
    """

    def __init__(self, cert: Path, key: Path) -> None:
        self._cert, self._key = cert, key
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            self._load()
        except (OSError, ssl.SSLError) as error:
            raise SettingsError(
                f"the certificate cannot be used: {error}",
                hint=f"server.tls_cert is {cert}, server.tls_key is {key}; both must be PEM",
            ) from None

    async def follow(self) -> None:
        """Load the files again whenever they change; new connections get what they hold then."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if self._stamp() != self._loaded:
                try:
                    self._load()
                except (OSError, ssl.SSLError) as error:
                    # Perhaps only one of the two has been replaced so far.
                    logger.warning(output.one_line(f"the new certificate cannot be used (yet): {error}"))
                else:
                    logger.info("the certificate was loaded again")

    def _load(self) -> None:
        stamp = self._stamp()
        # A pair that does not fit must leave the one in use alone: so it is tried elsewhere first.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self._cert, self._key)
        self.context.load_cert_chain(self._cert, self._key)
        self._loaded = stamp

    def _stamp(self) -> tuple[int, ...]:
        try:
            found = [file.stat() for file in (self._cert, self._key)]
        except OSError:
            return ()
        return tuple(value for one in found for value in (one.st_mtime_ns, one.st_size, one.st_ino))


def certificate_of(settings: Server) -> Certificate | None:
    """Return the certificate that the settings name, if they do."""
    if settings.tls_cert is None and settings.tls_key is None:
        return None
    if settings.tls_cert is None or settings.tls_key is None:
        raise SettingsError("server.tls_cert and server.tls_key go together; only one of them is set")
    return Certificate(Path(settings.tls_cert), Path(settings.tls_key))
