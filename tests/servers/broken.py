"""Ways to answer wrongly, for `ScriptedServer.answers`."""

from __future__ import annotations

import socket
import struct
import time
from typing import Any


def html(handler: Any, _message: Any) -> bool:
    handler.send(200, b"<html>not an answer</html>", kind="text/html")
    return True


def half(handler: Any, _message: Any) -> bool:
    handler.send_response(200)
    handler.send_header("content-type", "application/json")
    handler.send_header("content-length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"jsonrpc":"2.0"')
    handler.wfile.flush()
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True
    return True


def garbage(handler: Any, _message: Any) -> bool:
    handler.wfile.write(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
    handler.close_connection = True
    return True


def reset(handler: Any, _message: Any) -> bool:
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    for each in (handler.rfile, handler.wfile, handler.connection):  # the last of them to be closed sends the RST
        each.close()
    handler.close_connection = True
    return True


def reset_mid_stream(handler: Any, message: Any) -> bool:
    handler.send_response(200)
    handler.send_header("content-type", "text/event-stream")
    handler.send_header("transfer-encoding", "chunked")
    handler.end_headers()
    event = b'data: {"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":1}}\n\n'
    handler.wfile.write(b"%x\r\n%b\r\n" % (len(event), event))
    handler.wfile.flush()
    time.sleep(0.2)
    return reset(handler, message)


def mute(handler: Any, _message: Any) -> bool:
    handler.server_object._closing.wait(4)
    handler.close_connection = True
    return True
