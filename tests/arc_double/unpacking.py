"""A msgpack decoder as lenient as Arc's: stops after the first object, mends invalid UTF-8."""

import struct
from typing import Any

import msgspec

NUMBERS = {
    0xCA: ">f",
    0xCB: ">d",
    0xCC: ">B",
    0xCD: ">H",
    0xCE: ">I",
    0xCF: ">Q",
    0xD0: ">b",
    0xD1: ">h",
    0xD2: ">i",
    0xD3: ">q",
}
CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}
# code: (struct format of the length, kind)
SIZED = {
    0xC4: (">B", "bytes"),
    0xC5: (">H", "bytes"),
    0xC6: (">I", "bytes"),
    0xC7: (">B", "ext"),
    0xC8: (">H", "ext"),
    0xC9: (">I", "ext"),
    0xD9: (">B", "text"),
    0xDA: (">H", "text"),
    0xDB: (">I", "text"),
    0xDC: (">H", "list"),
    0xDD: (">I", "list"),
    0xDE: (">H", "map"),
    0xDF: (">I", "map"),
}


def unpack(body: bytes) -> Any:
    """Return the first object of a body.

    Raises:
        ValueError: The body does not begin with a whole msgpack object.
    """
    try:
        return msgspec.msgpack.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    try:
        return _read(body, 0)[0]
    except (struct.error, IndexError, TypeError, RecursionError) as error:
        raise ValueError("malformed msgpack") from error


def _read(body, place):
    code = body[place]
    place += 1
    if code <= 0x7F:
        return code, place
    if code >= 0xE0:
        return code - 256, place
    if code in CONSTANTS:
        return CONSTANTS[code], place
    if form := NUMBERS.get(code):
        return struct.unpack_from(form, body, place)[0], place + struct.calcsize(form)
    if 0xD4 <= code <= 0xD8:
        return _content("ext", 1 << (code - 0xD4), body, place)
    if code in SIZED:
        form, kind = SIZED[code]
        size = struct.unpack_from(form, body, place)[0]
        return _content(kind, size, body, place + struct.calcsize(form))
    if code <= 0x8F:
        return _content("map", code & 0x0F, body, place)
    if code <= 0x9F:
        return _content("list", code & 0x0F, body, place)
    if code <= 0xBF:
        return _content("text", code & 0x1F, body, place)
    raise ValueError("malformed msgpack")


def _content(kind, size, body, place):
    if kind == "list":
        items = []
        for _ in range(size):
            item, place = _read(body, place)
            items.append(item)
        return items, place
    if kind == "map":
        pairs = {}
        for _ in range(size):
            key, place = _read(body, place)
            pairs[key], place = _read(body, place)
        return pairs, place
    end = place + size + (kind == "ext")
    if end > len(body):
        raise ValueError("malformed msgpack")
    content = body[place:end]
    return (content.decode("utf-8", "replace") if kind == "text" else content), end
