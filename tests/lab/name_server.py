"""A name server that knows one service and its hosts, and writes each name that it was asked for. RFC 1035 and 2782,
with nothing of ours in it.

    python name_server.py IP SERVICE NAME=IP...
"""

import socket
import struct
import sys

A, SRV, IN = 1, 33, 1
ANSWER, NO_SUCH_NAME = 0x8580, 0x8583
PORT, GOSSIP_PORT = 53, 7766


def name_of(question: bytes) -> tuple[str, int]:
    """The name, and where its bytes end."""
    labels, at = [], 12
    while length := question[at]:
        labels.append(question[at + 1 : at + 1 + length].decode())
        at += 1 + length
    return ".".join(labels).lower(), at + 1


def in_bytes(name: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"


def answer(question: bytes, service: str, hosts: dict[str, str]) -> bytes:
    name, end = name_of(question)
    kind, _ = struct.unpack_from(">HH", question, end)
    found = []
    if (name, kind) == (service, SRV):
        found = [struct.pack(">HHH", 10, 1, GOSSIP_PORT) + in_bytes(host) for host in hosts]
    elif name in hosts and kind == A:
        found = [socket.inet_aton(hosts[name])]
    flags = ANSWER if name == service or name in hosts else NO_SUCH_NAME
    head = question[:2] + struct.pack(">HHHHH", flags, 1, len(found), 0, 0)
    records = b"".join(b"\xc0\x0c" + struct.pack(">HHIH", kind, IN, 60, len(each)) + each for each in found)
    return head + question[12 : end + 4] + records


def main(ip: str, service: str, *named: str) -> None:
    hosts = dict(each.split("=") for each in named)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        asked.bind((ip, PORT))
        print("up", flush=True)
        while True:
            question, sender = asked.recvfrom(512)
            print(name_of(question)[0], flush=True)
            asked.sendto(answer(question, service, hosts), sender)


if __name__ == "__main__":
    main(*sys.argv[1:])
