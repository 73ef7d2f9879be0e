"""Places VMs as `electros run` does, one after the other, and tells how long each took until its host committed it.

    python -m tests.bench.gossip.placer IDENTITY --count 100 | --seconds 10

One line of JSON each: milliseconds, or null where it was not placed, and the time at which it was over.
"""

import argparse
import gc
import json
import time
from pathlib import Path
from random import SystemRandom

from matcher.cli.run import SOON
from matcher.net.client import Client
from matcher.scheduler.outcomes import Placed
from matcher.scheduler.placing import Placing
from matcher.scheduler.pledging import Errand
from matcher.trust.identity import Identity, load_identity
from matcher.wire.codec import prepare
from matcher.wire.messages import Pledge, Reveal, VmOffer
from specs.ids import VmId, new_id
from tests.bench.gossip.ours import SPECFILE, small_ask

PAUSE_S = 0.02  # between two errands that are counted: hosts are idle again


class Placer:
    def __init__(self, identity: Identity, hosts_known: int) -> None:
        self._identity, self._hosts_known = identity, hosts_known
        self._random, self._ask = SystemRandom(), small_ask()
        prepare(Pledge, VmOffer, Reveal)  # any client has asked for namesakes before it pledges

    def place(self) -> float | None:
        """Seconds from the pledge to the commitment; `None` if it came to nothing."""
        vm_id = VmId(new_id(self._random))
        errand = Errand(
            vm_id,
            1,
            self._ask,
            hosts_known=self._hosts_known,  # as of the question for namesakes, which comes before
            name=f"vm-{vm_id[:8]}",
            specfile=SPECFILE.decode(),
        )
        with Client(self._identity, soon=SOON) as client:
            gc.collect()
            gc.disable()
            begun_s = time.monotonic()
            outcome = client.drive(Placing(errand, random=self._random))
            took_s = time.monotonic() - begun_s
            gc.enable()
        return took_s if isinstance(outcome, Placed) else None


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("identity", type=Path)
    parser.add_argument("--hosts-known", type=int, default=0)
    parser.add_argument("--count", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=0.0)
    options = parser.parse_args()
    placer = Placer(load_identity(options.identity), options.hosts_known)
    placer.place()  # what is only made once is made
    gc.freeze()  # and not walked again by what collects between two errands
    count, until_s = options.count, time.monotonic() + options.seconds
    while count > 0 or time.monotonic() < until_s:
        took_s = placer.place()
        print(json.dumps([took_s and took_s * 1000, time.monotonic()]), flush=True)
        count -= 1
        if options.count:
            time.sleep(PAUSE_S)


if __name__ == "__main__":
    main()
