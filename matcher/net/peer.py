"""The one loop of a daemon: sockets and time in, answers out.

Everything that is decided is decided synchronously, in `Intake` and the daemon's core, so that no two decisions ever
interleave; this file only moves bytes. Sockets are drained in batches: one wake-up answers all that waits, up to a
number, so that no flood keeps other tasks from their turn. Who has something to tell all hosts needs no part of this:
`multicast.tell`.
"""

import select
import signal
import socket
import time
from collections.abc import Sequence

import trio

from matcher.net import multicast
from matcher.net.intake import Arrival, Intake, Outgoing

BATCH_MAX = 64  # datagrams answered before other tasks have a turn
DATAGRAM_READ_BYTES = 2048  # more than is allowed, so that what is too long is seen to be
LINKS_RESCAN_S = 30.0

Port = tuple[socket.socket, socket.socket]  # a listener, and who answers by its family


def now_s() -> float:
    """The daemons' one monotonic clock; it goes on while a machine sleeps, as the promises made on it do."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


async def serve(
    intake: Intake, *, port: int = multicast.PORT, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Answer datagrams until cancelled; started once the sockets are open and the links are joined."""
    listeners = multicast.listeners(port)
    senders: dict[int, socket.socket] = {listener.family: _sender(listener.family) for listener in listeners}
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(_follow_links, listeners)
            ports = [(listener, senders[listener.family]) for listener in listeners]
            nursery.start_soon(_answer, ports, senders, intake)
            task_status.started()
    finally:
        for opened in (*listeners, *senders.values()):
            opened.close()


async def end_on_signal(scope: trio.CancelScope) -> None:
    """Cancel `scope` on SIGTERM or SIGINT."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            scope.cancel()
            return


async def _answer(ports: Sequence[Port], senders: dict[int, socket.socket], intake: Intake) -> None:
    """One wake-up for all sockets, and for pledges that are answered later: a question comes by IPv4 and IPv6 at once,
    and to wake up a second time costs more than to pass over the second copy. An epoll file is readable when one of its
    own is (epoll(7))."""
    with select.epoll() as any_of_them:
        for listener, _ in ports:
            any_of_them.register(listener, select.EPOLLIN)
        while True:
            due_s = intake.next_deadline_s()
            if due_s is None:  # a scope and its deadline cost as much as some checks do
                await trio.lowlevel.wait_readable(any_of_them.fileno())  # a checkpoint also when something is there
            else:
                with trio.move_on_after(max(0.0, due_s - now_s())):
                    await trio.lowlevel.wait_readable(any_of_them.fileno())
            for listener, sender in ports:
                answer_waiting(listener, sender, intake)
            if intake.next_deadline_s() is not None:
                answer_due(senders, intake)


def answer_waiting(listener: socket.socket, sender: socket.socket, intake: Intake) -> int:
    """Read what waits, `BATCH_MAX` datagrams at most, and answer it; how many there were."""
    for count in range(BATCH_MAX):
        try:
            data, source = listener.recvfrom(DATAGRAM_READ_BYTES)
        except OSError:  # drained; or an ICMP error about an earlier answer, which is nobody's business here
            return count
        if intake.passes_over(data):
            continue
        arrival = Arrival(listener.family, source[3] if len(source) > 2 else 0, source[0].partition("%")[0])
        for out in intake.receive(data, arrival, now_s=now_s(), wall_ms=wall_ms()):
            _send(sender, out, intake)
    return BATCH_MAX


def answer_due(senders: dict[int, socket.socket], intake: Intake) -> None:
    """What has waited for its time."""
    for out in intake.tick(now_s()):
        _send(senders[socket.AF_INET if len(out[1]) == 2 else socket.AF_INET6], out, intake)


def _send(sender: socket.socket, out: Outgoing, intake: Intake) -> None:
    try:
        sender.sendto(*out)
    except OSError as error:  # a full buffer or no route: datagrams may be lost, and the asker repeats
        intake.count(f"send {error.errno}")


async def _follow_links(
    listeners: list[socket.socket], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Links come and go; a join that exists already is passed over."""
    while True:
        links = multicast.links()
        for listener in listeners:
            multicast.join(listener, links)
        task_status.started()
        task_status = trio.TASK_STATUS_IGNORED
        await trio.sleep(LINKS_RESCAN_S)


def _sender(family: int) -> socket.socket:
    sender = socket.socket(family, socket.SOCK_DGRAM)
    sender.setblocking(False)
    return sender
