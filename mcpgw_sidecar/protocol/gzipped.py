"""gzip (RFC 1952) of an answer whose large part was compressed before: what stands around it differs with every request, and is not compressed.

One member, because common decoders read no second one: a stored block, the blocks that lie ready, a last stored block (RFC 1951, 3.2.4).
Nor is the large part looked at for the checksum: what a checksum before it changes in its own, each bit changes by itself, and half as far
as the bit above it (a CRC is linear). envoy/gzip.lua does the same with what the broker has answered.
"""

from __future__ import annotations

import re
import struct
import zlib

import attrs

_HEAD = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"  # deflate, no flags, no time, unknown system
_POLYNOMIAL = 0xEDB88320  # RFC 1952, section 8
WORTH = 16384  # bytes from which a list is compressed for clients that take it
MAX_AROUND = 0xFFFF  # bytes before and behind: what a stored block holds


@attrs.frozen
class Packed:
    """A body in blocks: whole bytes, none of them the last, and without a look at what stands before.

    `alone` is its checksum, and `top` what the highest bit of a checksum before it changes in that.
    """

    blocks: bytes = attrs.field(repr=False)
    size: int
    alone: int
    top: int


def packed(body: bytes) -> Packed:
    """Compress a body, for many answers."""
    compressor = zlib.compressobj(level=6, wbits=-zlib.MAX_WBITS)
    blocks = compressor.compress(body) + compressor.flush(zlib.Z_FULL_FLUSH)
    alone = zlib.crc32(body)
    return Packed(blocks, len(body), alone, zlib.crc32(body, 1 << 31) ^ alone)


def gzip_around(before: bytes, body: Packed, behind: bytes) -> bytes:
    """The gzip of `before + body + behind`. Before and behind are of MAX_AROUND bytes at most."""
    first, check, change = zlib.crc32(before), body.alone, body.top
    for bit in reversed(range(32)):
        if first >> bit & 1:
            check ^= change
        change = change >> 1 ^ (_POLYNOMIAL if change & 1 else 0)
    size = (len(before) + body.size + len(behind)) & 0xFFFFFFFF
    end = struct.pack("<II", zlib.crc32(behind, check), size)
    return b"".join([_HEAD, _stored(before), body.blocks, _stored(behind, last=True), end])


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
