"""A host's side of discovery: it answers those who look for hosts by mDNS, and heeds nothing of what others say there.

A task of its own, and no part of any answer to a pledge. Where the port is taken by somebody who does not share it, or
there is no multicast, the host simply is not announced.
"""

import logging
import socket
from collections.abc import Callable

import trio

from matcher.net import multicast
from matcher.net.discovery import ANSWERS_PER_S, GROUP_4, GROUP_6, MESSAGE_MAX_BYTES, PORT, Announced, answer, is_asked
from matcher.net.token_bucket import Rate, TokenBucket

LINKS_AGAIN_S = 30.0

log = logging.getLogger("discovery")


async def announce(told: Callable[[], Announced]) -> None:
    """Until cancelled."""
    listeners = []
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            listeners.append(multicast.shared_listener(family, PORT))
        except OSError as error:
            log.info("not announced by mDNS on %s: %s", family.name, error.strerror)
    try:
        async with trio.open_nursery() as nursery:
            for each in listeners:
                nursery.start_soon(_answer, each, told)
            before: tuple[multicast.Link, ...] = ()
            while True:
                links = multicast.links()
                for each in listeners:
                    multicast.join(each, links, groups=(GROUP_4, GROUP_6))
                _say(listeners, answer(told()), tuple(link for link in links if link not in before))
                before = links
                await trio.sleep(LINKS_AGAIN_S)
    finally:
        for each in listeners:
            each.close()


def _say(listeners: list[socket.socket], message: bytes, links: tuple[multicast.Link, ...]) -> None:
    for link in links:
        for each in listeners:
            multicast.ask(each, message, link, PORT, groups=(GROUP_4, GROUP_6))


async def _answer(listener: socket.socket, told: Callable[[], Announced]) -> None:
    bucket = TokenBucket(Rate(per_s=ANSWERS_PER_S, burst=ANSWERS_PER_S))
    while True:
        await trio.lowlevel.wait_readable(listener)
        try:
            data, source = listener.recvfrom(MESSAGE_MAX_BYTES)
        except OSError:
            continue
        asked = is_asked(data)
        if asked is None or not bucket.take(trio.current_time()):
            continue
        if source[1] == PORT:
            _say([listener], answer(told()), multicast.links())
        else:
            number, question = asked
            try:
                listener.sendto(answer(told(), number=number, question=question), source)
            except OSError:
                continue
