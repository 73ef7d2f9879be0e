"""The floor: the least that a daemon on trio and msgpack must do to answer a pledge.

No membership, no state, no retries: multicast in, unicast out. A question that is signed is verified, and its answer is
signed, with the curve that our own messages use; one that is not is answered unsigned. What a real daemon adds on top
of this, measured in the same run, is the price of its protocol.

    length of the signature 1 | signature, DER | msgpack
"""

import argparse
import socket

import msgpack  # type: ignore[import-untyped]
import trio
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, derive_private_key
from cryptography.hazmat.primitives.hashes import SHA256

GROUP, PORT = "239.77.0.1", 7900
OFFER_BYTES = 200
KEY = derive_private_key(0xA70305, SECP256R1())  # everybody's: only what it costs matters here
PUBLIC_KEY = KEY.public_key()
SIGN, VERIFY = ECDSA(SHA256(), deterministic_signing=True), ECDSA(SHA256())


def pack(message: dict[str, object], *, signed: bool) -> bytes:
    body: bytes = msgpack.packb(message)
    signature = KEY.sign(body, SIGN) if signed else b""
    return bytes([len(signature)]) + signature + body


def unpack(data: bytes) -> tuple[dict[str, object], bool]:
    """The message, and whether it was signed. Raises `InvalidSignature`."""
    start = 1 + data[0]
    if data[0]:
        PUBLIC_KEY.verify(data[1:start], data[start:], VERIFY)
    return msgpack.unpackb(data[start:]), bool(data[0])


async def main(name: str, ip: str) -> None:
    listening = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    listening.bind(("", PORT))
    group = socket.inet_aton(GROUP) + socket.inet_aton(ip)
    listening.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
    asked = trio.socket.from_stdlib_socket(listening)
    answering = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    await answering.bind((ip, 0))
    print("up", flush=True)
    while True:
        data, sender = await asked.recvfrom(4096)
        question, signed = unpack(data)
        answer = {"id": question["id"], "from": name, "offer": b"x" * OFFER_BYTES}
        await answering.sendto(pack(answer, signed=signed), sender)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", required=True)
    parser.add_argument("--ip", required=True)
    options = parser.parse_args()
    trio.run(main, options.name, options.ip)
