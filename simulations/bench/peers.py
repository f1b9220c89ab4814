"""What other libraries need for the same match. Run by the Python of an environment that holds them:

    python peers.py NAME LEFT.csv RIGHT.csv

NAME: openmined, spu-ecdh, spu-elligator, spu-kkrt or spu-rr22. Both parties run on this machine, CSV of
digests in, matched rows out; CPU seconds of both together. Prints one line. Imports nothing of ours.
"""

from __future__ import annotations

import multiprocessing
import resource
import socket
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any


def main() -> None:
    """See the module."""
    name, files = sys.argv[1], sys.argv[2:4]
    print(openmined(files) if name == "openmined" else spu(name, files))


def cpu() -> float:
    """CPU seconds of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def openmined(files: list[str]) -> str:
    """Client and server in one process: requests, answers and the intersection by GCS."""
    import private_set_intersection.python as psi

    lists = []
    for file in files:
        with Path(file).open() as lines:
            next(lines)
            lists.append([line.strip() for line in lines])
    before = cpu()
    client, server = psi.client.CreateWithNewKey(True), psi.server.CreateWithNewKey(True)
    setup = server.CreateSetupMessage(1e-12, len(lists[0]), lists[1], psi.DataStructure.GCS)
    request = client.CreateRequest(lists[0])
    response = server.ProcessRequest(request)
    found = client.GetIntersection(setup, response)
    sent = sum(len(m.SerializeToString()) for m in (setup, request, response))
    n = max(map(len, lists))
    return (
        f"openmined-psi {version('openmined_psi')} {cpu() - before:.1f} s, {sent / n:.0f} B"
        f" ({n:,} items, {len(found):,} found)"
    )


CURVES = {"spu-ecdh": "CURVE_25519", "spu-elligator": "CURVE_25519_ELLIGATOR2"}


def spu(name: str, files: list[str]) -> str:
    """Two processes over brpc on loopback."""
    ports = []
    for _ in range(2):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            ports.append(probe.getsockname()[1])
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        parties = [
            context.Process(target=_party, args=(name, rank, files, ports, folder, results))
            for rank in range(2)
        ]
        for party in parties:
            party.start()
        found = [results.get(timeout=500) for _ in parties]
        for party in parties:
            party.join(20)
    total, wall = sum(f["cpu"] for f in found), max(f["wall"] for f in found)
    matched = max(f["matched"] for f in found)
    note = " (leaks a bit of each digest)" if name == "spu-ecdh" else ""
    return f"{name} {version('spu')} {total:.1f} s, {wall:.1f} s wall, {matched:,} found{note}"


def _party(
    name: str, rank: int, files: list[str], ports: list[int], folder: str, results: Any
) -> None:
    from spu import libspu, psi

    link = libspu.link
    description = link.Desc()
    description.recv_timeout_ms = 400_000
    for i, port in enumerate(ports):
        description.add_party(f"party{i}", f"127.0.0.1:{port}")
    protocol = psi.PsiProtocolConfig(
        protocol={
            "spu-kkrt": psi.PsiProtocol.PROTOCOL_KKRT,
            "spu-rr22": psi.PsiProtocol.PROTOCOL_RR22,
        }.get(name, psi.PsiProtocol.PROTOCOL_ECDH),
        receiver_rank=0,
        ecdh_params=psi.EcdhParams(
            curve=getattr(psi.EllipticCurveType, CURVES.get(name, "CURVE_25519"))
        ),
    )
    config = psi.PsiExecuteConfig(
        protocol_conf=protocol,
        input_params=psi.InputParams(path=files[rank], selected_keys=["digest"], keys_unique=True),
        output_params=psi.OutputParams(path=str(Path(folder) / f"out{rank}.csv")),
    )
    connection = link.create_brpc(description, rank)
    before, started = cpu(), time.perf_counter()
    report = psi.psi_execute(config, connection)
    results.put(
        {"cpu": cpu() - before, "wall": time.perf_counter() - started,
         "matched": report.intersection_count}
    )  # fmt: skip


if __name__ == "__main__":
    main()
