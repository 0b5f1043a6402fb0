"""Looking for secrets where they must not be, in any of the forms in which they could lie there."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import quote

LEAST_BYTES = 16


def forms(secret: bytes) -> set[bytes]:
    """Return a secret plainly, quoted, in hex, and in base64 for each of the three ways to begin in it."""
    assert len(secret) >= LEAST_BYTES, "too short to be told from chance"
    found = {secret, quote(secret).encode(), secret.hex().encode(), secret.hex().upper().encode()}
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        for before in range(3):
            encoded = encode(bytes(before) + secret)
            # The first and the last characters depend on what stands beside the secret.
            found.add(encoded[4 if before else 0 :].rstrip(b"=")[:-1])
    return found


def master_key_forms(text: str) -> set[bytes]:
    """Return all forms of a master key: of its text, and of the bytes that it stands for."""
    return forms(text.encode()) | forms(base64.b64decode(text))


def found(secrets: Mapping[str, set[bytes]], places: Mapping[str, bytes]) -> list[str]:
    """Return which secret is in which place, in words."""
    return sorted(
        f"{name} in {place}"
        for place, content in places.items()
        for name, ways in secrets.items()
        if any(way in content for way in ways)
    )


def files_below(folder: Path) -> dict[str, bytes]:
    """Return the content of all files below a folder."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def children(process_id: int) -> Iterable[int]:
    """Return the processes that a process has started, and those that they have."""
    for entry in Path(f"/proc/{process_id}/task").iterdir():
        for child in map(int, (entry / "children").read_text().split()):
            yield child
            yield from children(child)


def shown_of_process(process_id: int, *parts: str) -> dict[str, bytes]:
    """Return what everybody on the machine may see of a process."""
    return {f"/proc/…/{part} of {process_id}": Path(f"/proc/{process_id}/{part}").read_bytes() for part in parts}
