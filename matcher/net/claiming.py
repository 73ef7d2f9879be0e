"""An unclaimed host: its daemons run and wait until somebody gives the machine an identity.

A package can be installed, and its daemons started, before anybody knows which realm the machine is for. They say that
they are ready, so that nothing waits for them at boot, and look again every second.
"""

import logging
from pathlib import Path

import trio

from matcher.net.starting import say_ready
from matcher.trust.identity import Identity, NoIdentity, load_identity

LOOK_S = 1.0

log = logging.getLogger("realm")


async def claimed(folder: Path) -> Identity:
    """The identity in `folder`, as soon as there is one. Raises `IdentityError` where it can't be used."""
    told = False
    while True:
        try:
            return load_identity(folder)
        except NoIdentity:
            if not told:
                told = True
                log.warning(
                    "this host belongs to no realm yet, and serves nobody. On the first host of a realm: "
                    "electros realm create NAME; on any other: atomd join TOKEN"
                )
                say_ready()
        await trio.sleep(LOOK_S)
