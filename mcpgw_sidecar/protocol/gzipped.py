"""gzip (RFC 1952) of an answer whose large part was compressed before: what stands around it differs with every request, and is not compressed.

One member, because common decoders read no second one: a stored block, the blocks that lie ready, a last stored block (RFC 1951, 3.2.4).
"""

from __future__ import annotations

import re
import struct
import zlib

_HEAD = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"  # deflate, no flags, no time, unknown system
WORTH = 16384  # bytes from which a list is compressed for clients that take it
MAX_AROUND = 0xFFFF  # bytes before and behind: what a stored block holds


def deflated(body: bytes) -> bytes:
    """The blocks of a body: whole bytes, none of them the last, and without a look at what stood before."""
    compressor = zlib.compressobj(level=6, wbits=-zlib.MAX_WBITS)
    return compressor.compress(body) + compressor.flush(zlib.Z_FULL_FLUSH)


def gzip_around(before: bytes, body: bytes, blocks: bytes, behind: bytes) -> bytes:
    """The gzip of `before + body + behind`; `blocks` are the body's. Before and behind are of MAX_AROUND bytes at most."""
    check = zlib.crc32(behind, zlib.crc32(body, zlib.crc32(before)))
    size = (len(before) + len(body) + len(behind)) & 0xFFFFFFFF
    return b"".join([_HEAD, _stored(before), blocks, _stored(behind, last=True), struct.pack("<II", check, size)])


def _stored(data: bytes, *, last: bool = False) -> bytes:
    length = len(data)
    return struct.pack("<BHH", last, length, length ^ 0xFFFF) + data


def accepts(header: str) -> bool:
    """Whether an `Accept-Encoding` takes gzip (RFC 9110, 12.5.3)."""
    taken: dict[str, bool] = {}
    for part in header.lower().split(","):
        name, _, weight = "".join(part.split()).partition(";")
        taken[name] = re.fullmatch(r"q=0(\.0*)?", weight) is None
    return taken.get("gzip", taken.get("x-gzip", taken.get("*", False)))
