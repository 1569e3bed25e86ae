"""Measures the cost of a start: `just bench start [PROGRAM ...]`.

The default is this checkout, and the programs that build/package made.

For each program it measures, in interleaved rounds, the medians of the time from exec until the
router answers an ext_proc request over gRPC and until /readyz is 200, the CPU until then, and the
resident memory (of the program and its children) when it is idle.
"""

from __future__ import annotations

import glob
import os
import platform
import signal
import socket
import statistics
import tempfile
import time
from pathlib import Path

import grpc
import httpx2

from mcpgw_sidecar.extproc.pb import ext_proc_pb2 as pb
from tests.e2e.stack import ROOT, SOURCE, Process, free_ports

METHOD = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
ROUNDS = 7
TICKS = os.sysconf("SC_CLK_TCK")


def request() -> pb.ProcessingRequest:
    headers = pb.HttpHeaders()
    for key, value in ((":method", b"POST"), (":path", b"/mcp"), (":authority", b"localhost")):
        headers.headers.headers.add(key=key, raw_value=value)
    return pb.ProcessingRequest(request_headers=headers)


def answers(port: int) -> None:
    """Return when the router has answered."""
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port)):
                break
        except OSError:
            time.sleep(0.002)
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.stream_stream(METHOD, pb.ProcessingRequest.SerializeToString, pb.ProcessingResponse.FromString)
        assert next(iter(call(iter([request()])))).HasField("request_headers")


def family(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in family(int(child)))]


def resident(pid: int) -> float:
    """MB."""
    lines = [line for each in family(pid) for line in Path(f"/proc/{each}/status").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1000


def processor(pid: int) -> float:
    """Seconds."""
    fields = [Path(f"/proc/{each}/stat").read_text().rpartition(") ")[2].split() for each in family(pid)]
    return sum(int(field[11]) + int(field[12]) for field in fields) / TICKS


def measured(program: list[str], directory: Path) -> tuple[float, float, float, float]:
    ports = dict(zip(("router", "broker", "admin"), free_ports(3), strict=True))
    config = directory / "config.yaml"
    config.write_text("servers: []\n")
    options = [f"--{name}-address=127.0.0.1:{port}" for name, port in ports.items()]
    begun = time.monotonic()
    process = Process([*program, "run", f"--config={config}", *options], directory / "log")
    try:
        answers(ports["router"])
        answered = time.monotonic() - begun
        while httpx2.get(f"http://127.0.0.1:{ports['admin']}/readyz", trust_env=False).status_code != 200:
            time.sleep(0.01)
        ready, spent = time.monotonic() - begun, processor(process.popen.pid)
        time.sleep(1.0)
        return answered, ready, spent, resident(process.popen.pid)
    finally:
        process.signal(signal.SIGTERM)  # not SIGKILL: the single file's parent would leave its child behind
        process.wait()


def main(*program_names: str) -> None:
    built = [str(ROOT / "dist/mcpgw-sidecar/mcpgw-sidecar")]
    built += [path for path in glob.glob(str(ROOT / "dist/mcpgw-sidecar-*-linux-*")) if not path.endswith((".tar", ".txt"))]
    programs = [[program] for program in program_names] or [SOURCE, *([path] for path in built if os.path.exists(path))]
    with tempfile.TemporaryDirectory() as directory:
        rounds = [[measured(program, Path(directory)) for program in programs] for _ in range(ROUNDS)]
    print(f"{ROUNDS} rounds, medians; Python {platform.python_version()}, {platform.machine()}\n")
    print("| program | router answers, s | ready, s | CPU until then, s | RSS idle, MB |\n|---|---|---|---|---|")
    for place, program in enumerate(programs):
        columns = [statistics.median(column) for column in zip(*(one[place] for one in rounds), strict=True)]
        name = "this checkout" if program == SOURCE else os.path.relpath(program[0], ROOT)
        print(f"| {name} | {columns[0]:.2f} | {columns[1]:.2f} | {columns[2]:.2f} | {columns[3]:.0f} |")
