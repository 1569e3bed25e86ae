from __future__ import annotations

import gzip
import zlib

import hypothesis.strategies as st
import pytest
from hypothesis import given
from lupa.luajit21 import LuaRuntime

from mcpgw_sidecar.envoyfiles.scripts import messages
from mcpgw_sidecar.protocol.gzipped import MAX_AROUND, Packed, accepts, gzip_around, packed

LUA = LuaRuntime(encoding=None)
LUA.execute(messages("").encode())
take_apart, put_together = LUA.globals().take_apart, LUA.globals().put_together


def sums(body: Packed) -> bytes:
    return f"{body.alone:08x}{body.top:08x}".encode()


@given(st.binary(max_size=300), st.binary(max_size=5000) | st.text(min_size=500).map(str.encode), st.binary(max_size=300))
def test_it_is_what_gzip_reads(before: bytes, body: bytes, behind: bytes) -> None:
    answer = gzip_around(before, packed(body), behind)
    assert gzip.decompress(answer) == before + body + behind
    decoder = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)  # what HTTP clients use: it reads one member
    assert decoder.decompress(answer) + decoder.flush() == before + body + behind
    assert decoder.eof
    assert decoder.unused_data == b""


@given(st.binary(max_size=300), st.binary(min_size=1, max_size=300), st.binary(max_size=5000))
def test_envoy_puts_it_around_another_beginning(before: bytes, other: bytes, body: bytes) -> None:
    whole = packed(body)
    apart = take_apart(gzip_around(before, whole, b"}"), sums(whole))
    assert put_together(other, apart) == gzip_around(other, whole, b"}")
    longest = other + b"0" * (MAX_AROUND - len(other))
    assert gzip.decompress(put_together(longest, apart)) == longest + body + b"}"


@given(st.binary(max_size=60))
def test_envoy_keeps_nothing_else(text: bytes) -> None:
    whole = packed(b"{}")
    answer = gzip_around(b"1", whole, b"}")
    assert take_apart(answer, sums(whole)) is not None
    for other in (
        text,
        gzip_around(b"1", whole, b"}\n"),
        gzip.compress(text),
        answer[:-5] + b"x" + answer[-4:],
        b"x" + answer[1:],
    ):
        assert take_apart(other, sums(whole)) is None
    for wrong in (sums(whole)[1:], b"0" * 16, b""):
        assert take_apart(answer, wrong) is None


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
