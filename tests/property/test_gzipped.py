from __future__ import annotations

import gzip
import zlib

import hypothesis.strategies as st
import pytest
from hypothesis import given

from mcpgw_sidecar.protocol.gzipped import accepts, deflated, gzip_around


@given(st.binary(max_size=300), st.binary(max_size=5000) | st.text(min_size=500).map(str.encode), st.binary(max_size=300))
def test_it_is_what_gzip_reads(before: bytes, body: bytes, behind: bytes) -> None:
    packed = gzip_around(before, body, deflated(body), behind)
    assert gzip.decompress(packed) == before + body + behind
    decoder = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)  # what HTTP clients use: it reads one member
    assert decoder.decompress(packed) + decoder.flush() == before + body + behind
    assert decoder.eof
    assert decoder.unused_data == b""


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", False),
        ("gzip", True),
        ("br, GZip;q=0.5", True),
        ("gzip;q=0", False),
        ("*, gzip;q=0", False),
        ("gzip;\tq=0.", False),
        ("x-gzip", True),
        ("gzip; q=0.0, br", False),
        ("*", True),
        ("identity", False),
    ],
)
def test_who_takes_it(header: str, expected: bool) -> None:
    assert accepts(header) == expected
