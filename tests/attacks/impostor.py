"""What somebody does with a certificate that is not what it should be, one job for each run: JSON in, JSON out.

Runs inside a lab. `as` is the folder with the key and the leaf to show, of whatever form; the realm's tag key comes
from the identity in `member`, as any member has it.
"""

import base64
import contextlib
import http.client
import json
import os
import signal
import socket
import ssl
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import SystemRandom
from threading import Thread
from typing import Any

from matcher.net import multicast
from matcher.net.client import Client
from matcher.scheduler.pledging import Errand, make_pledge
from matcher.trust.certificates import load, public_key_of
from matcher.trust.identity import load_identity, load_key, pem_to_der
from matcher.trust.principal import fingerprint
from matcher.wire import signature
from matcher.wire.codec import BadBytes, decode, encode
from matcher.wire.envelope import HOSTS, REALM, Kind, RealmSecret, seal, unseal, user_audience
from matcher.wire.messages import Accelerator, Address, Arch, Pledge, VmOffer
from matcher.wire.realm import News
from specs.ids import HostId, UserId, new_id
from tests.attacks.attacker import HONEST, Attacker
from tests.attacks.enemy import FRONT_DOOR, heard

HEAR_S = 0.3
HOLD_MS = 200
HELD_S = 5.0
ANSWER_S = 60.0
OFFER_MS = 2_000
FAKE_PORT = 7799
NO = b'HTTP/1.1 409 Conflict\r\nContent-Length: 31\r\n\r\n{"code":"denied","reasons":[]}\n'


@dataclass
class Impostor:
    """A `Signer` with any certificate."""

    folder: Path
    realm: RealmSecret
    certificate: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.key = load_key(self.folder)
        self.certificate = pem_to_der((self.folder / "leaf.pem").read_text())

    def sign(self, data: bytes) -> bytes:
        return signature.sign(self.key, data)


def impostor(job: dict[str, Any]) -> Impostor:
    return Impostor(Path(job["as"]), load_identity(Path(job["member"])).realm)


def link_of() -> multicast.Link:
    return next(link for link in multicast.links() if link.ipv4)


# ---- datagrams


def tries(job: dict[str, Any]) -> Any:
    """With each of `folders`: a pledge that holds, if anybody listens to it, and a request at a front door."""
    realm = load_identity(Path(job["member"])).realm
    return {
        name: {"heard": _pledge(Impostor(Path(folder), realm)), **request(folder, job["host"], "GET", "/v1/vms")}
        for name, folder in job["folders"].items()
    }


def _pledge(me: Impostor) -> int:
    """How many answers came."""
    link = link_of()
    with multicast.asking_socket(socket.AF_INET) as asking:
        errand = Errand(new_id(SystemRandom()), 1, HONEST, hold_ms=HOLD_MS)
        made, _ = make_pledge(errand, random=SystemRandom(), wall_ms=time.time_ns() // 1_000_000, dry=False)
        mine = replace(made, reply=(Address(link.ipv4 or "", asking.getsockname()[1]),))
        data = seal(Kind.PLEDGE, encode(mine), realm=me.realm, signer=me, audience=REALM, pad_bytes=1200)
        multicast.ask(asking, data, link)
        return heard(asking, HEAR_S)


def news(job: dict[str, Any]) -> Any:
    """What a host tells the others, with documents in it."""
    me = impostor(job)
    fresh = base64.b64decode(job.get("fresh", ""))
    says = News(job["host"], time.time_ns() // 1_000_000, os.urandom(32), 1, FAKE_PORT, fresh)
    data = seal(Kind.NEWS, encode(says), realm=me.realm, signer=me, audience=HOSTS)
    return {"copies": multicast.tell(data, on=[link_of()])}


# ---- the front door


def context_of(folder: str) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(f"{folder}/leaf.pem", f"{folder}/key.pem")
    return context


STORAGE_DOOR = 7767
STORAGES = tuple(f"/v1/{each}" for each in ("volumes", "imports", "uploads", "seeds", "attachments", "detachments"))


def request(folder: str, host: str, method: str, path: str, body: bytes = b"") -> dict[str, Any]:
    """One request; what the host said to it, or what TLS did."""
    port = STORAGE_DOOR if path.startswith(STORAGES) else FRONT_DOOR
    asking = http.client.HTTPSConnection(host, port, timeout=ANSWER_S, context=context_of(folder))
    try:
        asking.request(method, path, body=body, headers={"Connection": "close"})
        answer = asking.getresponse()
        said = answer.read().decode()
    except (OSError, http.client.HTTPException) as error:
        return {"status": 0, "said": str(error)}
    finally:
        asking.close()
    return {"status": answer.status, "said": said}


def ask(job: dict[str, Any]) -> Any:
    """`asks`: host, method, path, and a body in base 64."""
    return [request(job["as"], *each[:3], base64.b64decode(each[3])) for each in job["asks"]]


def linger(job: dict[str, Any]) -> Any:
    """A connection that stays: for the next request, or (`path` of a console) for what a guest may say. The first line
    tells that it is open, the second that it has ended, and after what time."""
    opened = context_of(job["as"]).wrap_socket(socket.create_connection((job["host"], FRONT_DOOR), timeout=ANSWER_S))
    upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    upgrade += "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    more = upgrade if job["path"].endswith("/console") else ""
    asking = f"GET {job['path']} HTTP/1.1\r\nHost: h\r\n{more}\r\n".encode()
    opened.sendall(asking)
    first = opened.recv(4096).decode("latin-1").splitlines()[0]
    print(json.dumps({"said": first}), flush=True)
    opened.settimeout(0.5)
    until_s = time.monotonic() + job["for_s"]
    awaits = bool(more)
    while time.monotonic() < until_s:
        try:
            if not awaits:  # who asks nothing is hung up on in any case
                opened.sendall(asking)
                awaits = True
            data = opened.recv(65_536)
        except TimeoutError:
            continue
        except OSError:
            data = b""
        if not data or b" 403 " in data:
            return {"said": first, "ended": True, "last": data.decode("latin-1")[:60]}
        awaits = bool(more)
        time.sleep(0.2)
    return {"said": first, "ended": False, "last": ""}


def confirms(job: dict[str, Any]) -> Any:
    """The user in `as` pledges and is offered by `host`; then each of `posts`: whose word about that offer (`by`, a
    folder) goes over whose TLS (`over`) to which host (`to`), sealed for which (`sealed_for`: else for the offer's).
    `times`: so often at the same moment. What each was answered, and the envelopes in base 64."""
    with Client(load_identity(Path(job["as"]))) as client:
        me = Attacker(client, {"host": job["host"]})
        me.pledge()
        until_s = time.monotonic() + HELD_S
        while me.chosen() is None and time.monotonic() < until_s:
            me.hear(0.1)
    chosen = me.chosen()
    assert chosen is not None, "no offer"
    answers, envelopes = [], []
    for post in job["posts"]:
        with Client(load_identity(Path(post["by"]))) as client:
            speaking = Attacker(client, {"host": job["host"]})
            speaking.vm_id = me.vm_id
            envelope = speaking.envelope(chosen[0], HostId(job["ids"][post.get("sealed_for", job["host"])]))
        envelopes.append(base64.b64encode(envelope).decode())
        with ThreadPoolExecutor() as pool:
            asked = [(post["over"], post["to"], "POST", "/v1/confirms", envelope)] * post.get("times", 1)
            answers.append(list(pool.map(lambda each: request(*each), asked)))
    return {"vm_id": me.vm_id, "answers": answers, "envelopes": envelopes}


# ---- a host that is none


def host(job: dict[str, Any]) -> Any:
    """Answers pledges with offers, and has a front door with the key in `door`; what came to both."""
    me, link = impostor(job), link_of()
    listening = multicast._listener(socket.AF_INET, multicast.PORT)
    multicast.join(listening, [link])
    listening.setblocking(True)
    came = {"pledges": 0, "connections": 0, "bytes": 0}
    Thread(target=_fake_door, args=(job["door"], came), daemon=True).start()
    print(json.dumps({"open": True}), flush=True)
    over: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: over.append(1))
    until_s = time.monotonic() + job["for_s"]
    while not over and time.monotonic() < until_s:
        listening.settimeout(0.2)
        with contextlib.suppress(TimeoutError, BadBytes):
            sealed = unseal(listening.recv(2048), realm=me.realm)
            if sealed.kind is Kind.PLEDGE:
                came["pledges"] += 1
                _offer(me, decode(Pledge, sealed.payload), fingerprint(public_key_of(load(sealed.certificate))), link)
    return came


def _offer(me: Impostor, asked: Pledge, user_id: str, link: multicast.Link) -> None:
    offer = VmOffer(
        pledge_id=asked.pledge_id,
        offer_id=new_id(SystemRandom()),
        host="h9",
        front_door_port=FAKE_PORT,
        hosts_known=3,
        expires_in_ms=OFFER_MS,
        score=1.0,
        threads=tuple(range(asked.vm.slots)) if asked.vm else (0,),
        threads_per_core=1,
        numa=0,
        pci=(),
        arch=Arch.X86_64,
        accelerator=Accelerator.KVM,
    )
    data = seal(Kind.VM_OFFER, encode(offer), realm=me.realm, signer=me, audience=user_audience(UserId(user_id)))
    there = next(address for address in asked.reply if "." in address.ip)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
        sending.bind((link.ipv4 or "", 0))
        sending.sendto(data, (there.ip, there.port))


def _fake_door(folder: str, came: dict[str, int]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{folder}/leaf.pem", f"{folder}/key.pem")
    with socket.create_server(("0.0.0.0", FAKE_PORT)) as listening:
        while True:
            plain, _ = listening.accept()
            came["connections"] += 1
            with contextlib.suppress(OSError), context.wrap_socket(plain, server_side=True) as tls:
                tls.settimeout(2)
                came["bytes"] += len(tls.recv(65_536))
                tls.sendall(NO)


def main() -> None:
    job = json.loads(sys.argv[1])
    jobs = {"tries": tries, "news": news, "ask": ask, "linger": linger, "confirms": confirms, "host": host}
    print(json.dumps(jobs[job.pop("do")](job)), flush=True)


if __name__ == "__main__":
    main()
