"""python attacker.py WISHES: a user who does without `electros` and its checks, and signs what they like.

WISHES are JSON: `vm` and `confirm` are fields that replace, or are added to, those of an honest VM ask and confirm,
`confirm_vm` those of the ask in the confirm alone; `host`: where to confirm (none: only offers are collected);
`pledges`: how many; `dry`. A list of such is done one by one. Tells in JSON what came of it.
"""

import json
import sys
import time
from dataclasses import replace
from random import SystemRandom
from typing import Any

import msgpack

from matcher.cli.folders import identity_folder
from matcher.net.client import Client
from matcher.net.https import Door, Unanswered, Unreachable
from matcher.net.multicast import ask
from matcher.scheduler.pledging import HOLD_MS, Errand, make_pledge
from matcher.trust.identity import load_identity
from matcher.wire.codec import BODY_MAX_BYTES, encode
from matcher.wire.envelope import REALM, Kind, host_audience, seal
from matcher.wire.messages import (
    DATAGRAM_MAX_BYTES,
    Arch,
    Confirm,
    Firmware,
    Message,
    Refused,
    Role,
    Unfit,
    VmAsk,
    VmOffer,
)
from specs.ids import HostId, new_id

HONEST = VmAsk(1, False, 8, (Arch("X86_64"),), (), 64, False, (), Firmware("bios"), True)
LISTEN_S = 0.6


def main() -> None:
    wishes = json.loads(sys.argv[1])
    with Client(load_identity(identity_folder())) as client:
        each = wishes if isinstance(wishes, list) else [wishes]
        done = []
        for one in each:
            done.append(Attacker(client, one).act())
            time.sleep((one.get("hold_ms", 0) + 100) / 1000)  # else the holds of before stand in the next one's way
        print(json.dumps(done if isinstance(wishes, list) else done[0]))


def spoiled(message: Message, wishes: dict[str, Any]) -> dict[str, Any]:
    return {**msgpack.unpackb(encode(message)), **wishes}


class Attacker:
    def __init__(self, client: Client, wishes: dict[str, Any]) -> None:
        self.client, self.wishes = client, wishes
        self.offers: list[tuple[VmOffer, HostId, str]] = []
        self.unfit: list[Unfit] = []
        self.vm_id = new_id(SystemRandom())

    def act(self) -> dict[str, Any]:
        for _ in range(self.wishes.get("pledges", 1)):
            self.pledge()
            self.hear(0.0)
        end_s = time.monotonic() + LISTEN_S
        while time.monotonic() < end_s:
            self.hear(0.05)
            if self.wishes.get("pledges", 1) == 1 and self.chosen() is not None:
                break
        return {
            "offers": [[offer.host, offer.offer_id, offer.expires_in_ms] for offer, _, _ in self.offers],
            "unfit": [[unfit.host, *(reason.resource for reason in unfit.reasons)] for unfit in self.unfit],
            "answer": self.confirm() if "host" in self.wishes else None,
        }

    def pledge(self) -> None:
        errand = Errand(new_id(SystemRandom()), 1, HONEST, hold_ms=self.wishes.get("hold_ms", HOLD_MS))
        dry = self.wishes.get("dry", False)
        link = next(link for link in self.client._links if link.ipv4)
        made, _ = make_pledge(errand, random=SystemRandom(), wall_ms=time.time_ns() // 1_000_000, dry=dry)
        made = replace(made, vm_id=self.vm_id if "host" in self.wishes else made.vm_id, reply=self.client._reply(link))
        fields = spoiled(made, self.wishes.get("pledge", {}))
        fields["vm"] = spoiled(HONEST, self.wishes.get("vm", {}))
        identity = self.client.identity
        datagram = seal(
            Kind.PLEDGE,
            msgpack.packb(fields),
            realm=identity.realm,
            signer=identity,
            audience=REALM,
            pad_bytes=DATAGRAM_MAX_BYTES,
        )
        for asking in self.client._sockets:
            ask(asking, datagram, link, self.client._port)

    def hear(self, for_s: float) -> None:
        for said in self.client.hear(time.monotonic() + for_s):
            if isinstance(said.message, VmOffer) and said.message.offer_id not in {
                o.offer_id for o, _, _ in self.offers
            }:
                self.offers.append((said.message, said.host_id, said.address))
            if isinstance(said.message, Unfit):
                self.unfit.append(said.message)

    def chosen(self) -> tuple[VmOffer, HostId, str] | None:
        return next((each for each in self.offers if each[0].host == self.wishes.get("host")), None)

    def confirmed(self) -> dict[str, Any]:
        """What was offered, unless the confirm is to be for something else."""
        others = self.wishes.get("confirm", {}).get("vm", {}) | self.wishes.get("confirm_vm", {})
        return spoiled(HONEST, self.wishes.get("vm", {}) | others)

    def envelope(self, offer: VmOffer, host_id: HostId) -> bytes:
        """The confirm of this offer, signed for this host."""
        name = f"vm-{self.vm_id[:6]}"
        honest = Confirm(self.vm_id, 1, offer.pledge_id, offer.offer_id, host_id, name, HONEST, (), "{}")
        wishes = self.wishes.get("confirm", {})
        fields = spoiled(honest, {**wishes, "vm": self.confirmed()})
        identity = self.client.identity
        return seal(
            Kind.CONFIRM,
            msgpack.packb(fields),
            realm=identity.realm,
            signer=identity,
            audience=host_audience(host_id, Role.COMPUTE),
            max_bytes=BODY_MAX_BYTES,
        )

    def confirm(self) -> dict[str, Any]:
        chosen = self.chosen()
        if chosen is None:
            return {"event": "no offer"}
        offer, host_id, address = chosen
        envelope = self.envelope(offer, host_id)
        door = Door(offer.host, host_id, address, offer.front_door_port)
        try:
            with self.client.connect(door, timeout_s=60) as connection:
                said = connection.confirm(envelope)
                if isinstance(said, Refused):
                    return {"event": "refused", "code": said.code, "reasons": [reason.has for reason in said.reasons]}
                last = [said, *connection.progress(60)][-1]
                return {"event": last.event, "id": self.vm_id, "why": last.vm.why}
        except (Unanswered, Unreachable) as error:
            return {"event": "unanswered", "why": str(error)}


if __name__ == "__main__":
    main()
