"""Secrets that the operator gives: the master key from the environment, Arc keys from wherever they are kept."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from memtrace_cli.settings import SettingsError
from memtrace_core.errors import VaultError
from memtrace_sqlite import EnvelopeVault, MasterKey

VARIABLE = "MEMTRACE_MASTER_KEY"
FILE_VARIABLE = "MEMTRACE_MASTER_KEY_FILE"
PREVIOUS = "MEMTRACE_MASTER_KEY_PREVIOUS"
PREVIOUS_FILE = "MEMTRACE_MASTER_KEY_PREVIOUS_FILE"
VARIABLES = (VARIABLE, FILE_VARIABLE, PREVIOUS, PREVIOUS_FILE)


def master_key(environ: Mapping[str, str]) -> MasterKey:
    """Return the master key of the environment, or of the file that the environment names.

    Raises:
        SettingsError: it is missing, malformed or of the wrong length; three distinct messages, none with the key.
    """
    given, file = environ.get(VARIABLE), environ.get(FILE_VARIABLE)
    if given and file:
        raise SettingsError(f"both {VARIABLE} and {FILE_VARIABLE} are set; set one of them")
    if file:
        name, text = FILE_VARIABLE, _content(file)
    else:
        name, text = VARIABLE, given or ""
    if not text.strip():
        where = f"the file in {FILE_VARIABLE} is empty" if file else f"{VARIABLE} is not set"
        raise SettingsError(
            f"{where}: it must hold the master key, 32 bytes in base64",
            hint=f"make one with `memtrace keygen master`, keep it safe, and export {VARIABLE}",
        )
    try:
        return MasterKey.parse(text)
    except VaultError as error:
        raise SettingsError(
            f"{name}: {error}; expected 32 bytes in base64", hint="`memtrace keygen master` prints a good one"
        ) from None


def vault(environ: Mapping[str, str], kind: type[EnvelopeVault] = EnvelopeVault) -> EnvelopeVault:
    """Return the vault of the environment's master key, and of those before it that it names.

    Raises:
        SettingsError: a key is missing, malformed or of the wrong length.
    """
    given, file = environ.get(PREVIOUS), environ.get(PREVIOUS_FILE)
    if given and file:
        raise SettingsError(f"both {PREVIOUS} and {PREVIOUS_FILE} are set; set one of them")
    name, text = (PREVIOUS_FILE, _content(file)) if file else (PREVIOUS, given or "")
    previous = []
    for part in text.replace("\n", ",").split(","):
        if part.strip():
            try:
                previous.append(MasterKey.parse(part))
            except VaultError as error:
                raise SettingsError(
                    f"{name}: {error}; expected keys of 32 bytes in base64, separated by commas"
                ) from None
    return kind(master_key(environ), previous)


def arc_api_key(given: str | None, file: Path | None) -> str:
    """Return an Arc API key from a flag, from standard input (`-`), from a file, or from a prompt.

    Raises:
        SettingsError: there is none, and no terminal to ask at.
    """
    if given is not None and file is not None:
        raise SettingsError("give --api-key or --api-key-file, not both")
    if file is not None:
        return _content(str(file)).strip()
    if given == "-":
        return sys.stdin.readline().strip()
    if given is not None:
        return given
    if not sys.stdin.isatty():
        raise SettingsError(
            "an Arc API key is needed: give --api-key KEY, --api-key - (stdin) or --api-key-file FILE"
        )
    from getpass import getpass  # needs a terminal, and time to import, that most commands have no use for

    return getpass("Arc API key: ").strip()


def _content(file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise SettingsError(f"{file}: {reason}") from None
