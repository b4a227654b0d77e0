"""Runs a command where every packet it sends can be seen: a network namespace with a false name server.

    unshare --net --mount python test/network/trace.py -- COMMAND ...

In there is only loopback, the default route leads to it, and the name server (127.0.0.1) answers every
question with 127.0.0.2: a program that wants to talk to anybody asks here and is written down. Prints
one JSON line: names that were looked up, and packets that are not DDS on loopback. Needs root.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

_ANY_PACKET = 0x0003  # ETH_P_ALL
_OUTGOING = 4  # PACKET_OUTGOING: on loopback each packet is seen twice, going out and coming in
_UDP, _TCP = 17, 6
_DNS_PORT = 53


def isolate(folder: Path) -> None:
    """Loopback up, everything routed to it, and the system's name server replaced."""
    resolver = folder / "resolv.conf"
    resolver.write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
    for command in (
        ["ip", "link", "set", "lo", "up"],
        ["ip", "route", "add", "default", "dev", "lo"],
        ["mount", "--bind", str(resolver), str(Path("/etc/resolv.conf").resolve())],
    ):
        subprocess.run(command, check=True, capture_output=True)


def answer_names(server: socket.socket, names: Counter[str]) -> None:
    """Answer every A question with 127.0.0.2, every other one with nothing."""
    while True:
        question, sender = server.recvfrom(4096)
        labels, position = [], 12
        while length := question[position]:
            labels.append(question[position + 1 : position + 1 + length].decode("ascii", "replace"))
            position += 1 + length
        kind = int.from_bytes(question[position + 1 : position + 3], "big")
        names[".".join(labels)] += 1
        record = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 60, 4) + bytes([127, 0, 0, 2]) if kind == 1 else b""
        counts = struct.pack(">HHHHH", 0x8180, 1, 1 if record else 0, 0, 0)
        server.sendto(question[:2] + counts + question[12 : position + 5] + record, sender)


def watch(sniffer: socket.socket, packets: Counter[str], dds_ports: range) -> None:
    """Write down every packet but DDS on loopback and the name server's."""
    while True:
        frame, address = sniffer.recvfrom(65535)
        if address[2] != _OUTGOING or len(frame) < 14:
            continue
        if frame[12:14] != b"\x08\x00":
            packets[f"ethertype {frame[12:14].hex()}"] += 1
            continue
        packet = frame[14:]
        protocol, start = packet[9], (packet[0] & 15) * 4
        source, target = socket.inet_ntoa(packet[12:16]), socket.inet_ntoa(packet[16:20])
        if protocol == 1 and source.startswith("127.") and target.startswith("127."):
            continue  # "nobody listens there": an answer to something that is judged by itself
        if protocol not in (_UDP, _TCP):
            packets[f"protocol {protocol} to {target}"] += 1
            continue
        from_port, to_port = struct.unpack(">HH", packet[start : start + 4])
        if protocol == _UDP and _DNS_PORT in (from_port, to_port):
            continue  # counted by name
        if protocol == _UDP and to_port in dds_ports and target.startswith("127."):
            continue
        packets[f"{'udp' if protocol == _UDP else 'tcp'} to {target}:{to_port}"] += 1


def main() -> int:
    command = sys.argv[sys.argv.index("--") + 1 :]
    # so many seconds after it said this, SIGINT, for what does not end by itself
    seconds, after = float(os.environ.get("TRACE_SECONDS", "0")), os.environ.get("TRACE_AFTER", "").encode()
    folder = Path(os.environ["TRACE_FOLDER"])
    isolate(folder)
    first_port = 7400 + 250 * int(os.environ.get("ROS_DOMAIN_ID", "0"))
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", _DNS_PORT))
    sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ANY_PACKET))
    names: Counter[str] = Counter()
    packets: Counter[str] = Counter()
    threading.Thread(target=answer_names, args=(server, names), daemon=True).start()
    ports = range(first_port, first_port + 250)
    threading.Thread(target=watch, args=(sniffer, packets, ports), daemon=True).start()
    with (folder / "output.txt").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        if seconds:
            while process.poll() is None and after not in (folder / "output.txt").read_bytes():
                time.sleep(0.05)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(seconds)
            process.send_signal(signal.SIGINT)
        status = process.wait()
    time.sleep(0.2)  # what was sent last is still on its way to the sniffer
    print(json.dumps({"status": status, "names": dict(names), "packets": dict(packets)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
