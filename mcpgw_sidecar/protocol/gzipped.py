"""gzip (RFC 1952) of an answer whose large part is compressed once, for many answers.

The text before and after the large part differs with every request, and is not compressed. The
answer is one gzip member, because common decoders read no second one: a stored block (RFC 1951,
3.2.4), the compressed blocks, a last stored block.

The checksum of the whole is computed without another pass over the large part. A CRC is linear:
each bit of the checksum of the text before changes the checksum of the whole independently of the
other bits, and the change of one bit follows from the change of the bit above it by one shift. So
`Packed` needs only the change of the highest bit. envoy/lua/gzip.lua does the same with the
answers of the broker.
"""

from __future__ import annotations

import re
import struct
import zlib

import attrs

_HEAD = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"  # deflate, no flags, no time, unknown system
_POLYNOMIAL = 0xEDB88320  # RFC 1952, section 8
WORTH = 16384  # bytes: smaller lists are not compressed
MAX_AROUND = 0xFFFF  # bytes before, and bytes after: the size of a stored block


@attrs.frozen
class Packed:
    """A compressed body, as blocks that can stand anywhere in a member.

    They end at a byte, none is the last of the member, and they refer to no data before them.

    `alone` is the checksum of the body. `top` is the change of the checksum by the highest bit of
    the checksum of the text before.
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


def gzip_around(prefix: bytes, body: Packed, suffix: bytes) -> bytes:
    """The gzip of `prefix + body + suffix`. Prefix and suffix have MAX_AROUND bytes at most."""
    prefix_check, check, change = zlib.crc32(prefix), body.alone, body.top
    for bit in reversed(range(32)):
        if prefix_check >> bit & 1:
            check ^= change
        change = change >> 1 ^ (_POLYNOMIAL if change & 1 else 0)
    size = (len(prefix) + body.size + len(suffix)) & 0xFFFFFFFF
    end = struct.pack("<II", zlib.crc32(suffix, check), size)
    return b"".join([_HEAD, _stored(prefix), body.blocks, _stored(suffix, last=True), end])


def _stored(data: bytes, *, last: bool = False) -> bytes:
    length = len(data)
    return struct.pack("<BHH", last, length, length ^ 0xFFFF) + data


def accepts(header: str) -> bool:
    """Whether an `Accept-Encoding` allows gzip (RFC 9110, 12.5.3)."""
    allowed: dict[str, bool] = {}
    for part in header.lower().split(","):
        name, _, weight = "".join(part.split()).partition(";")
        allowed[name] = re.fullmatch(r"q=0(\.0*)?", weight) is None
    return allowed.get("gzip", allowed.get("x-gzip", allowed.get("*", False)))
