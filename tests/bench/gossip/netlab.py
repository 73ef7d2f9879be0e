"""A bridge and N network namespaces, one veth each, and no way out: what the systems under test live in.

Nothing here has a name outside of this process. A namespace is held by a file descriptor and by whoever runs inside,
the bridge lies in a namespace of its own, and every child dies with this process, so that even after a SIGKILL of the
bench the kernel takes all of it away.

The limit on neighbour entries is one for all namespaces: N hosts need about N * N of them. It is raised meanwhile;
without that, unicast answers vanish from some 33 hosts on, as if they had never been sent.
"""

import ctypes
import fcntl
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

CLONE_NEWNET = 0x40000000  # setns(2)
NEIGHBOURS = Path("/proc/sys/net/ipv4/neigh/default"), Path("/proc/sys/net/ipv6/neigh/default")
THRESHOLDS = ("gc_thresh3", "gc_thresh2", "gc_thresh1")
SPARE_NEIGHBOURS = 2048
ROOM_NEEDED = Path("/run/atomos-neighbours.lock")  # as in packaging/lablib/network.py
HOSTS_MAX = 250

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Traffic:
    """As a host itself would count it, with Ethernet headers, ARP and all."""

    sent_bytes: int
    sent_packets: int
    heard_bytes: int
    heard_packets: int

    def since(self, before: "Traffic") -> "Traffic":
        return Traffic(
            self.sent_bytes - before.sent_bytes,
            self.sent_packets - before.sent_packets,
            self.heard_bytes - before.heard_bytes,
            self.heard_packets - before.heard_packets,
        )


class NetLab:
    """`with NetLab(50) as lab`: places 0 to 49, at 10.77.0.1 and on."""

    def __init__(self, places: int) -> None:
        assert 0 < places <= HOSTS_MAX
        self.places = places
        self._namespaces: list[int] = []
        self._children: list[subprocess.Popen[bytes]] = []
        self._thresholds: dict[Path, tuple[str, str]] = {}
        self._home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        self._room = ROOM_NEEDED.open("a")
        fcntl.flock(self._room, fcntl.LOCK_SH)

    def ip(self, place: int) -> str:
        return f"10.77.0.{place + 1}"

    def __enter__(self) -> "NetLab":
        try:
            self.make_room()
            self._bridge = _new_namespace(self._home)
            self._namespaces = [_new_namespace(self._home) for _ in range(self.places)]
            self._furnish_bridge()
            for place in range(self.places):
                self._furnish(place)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in self._children:
            child.kill()
        for child in self._children:
            child.wait()
            if child.stdout is not None:
                child.stdout.close()
        for path, (before, ours) in self._thresholds.items():
            if path.read_text().strip() == ours:  # nobody else has raised it meanwhile
                path.write_text(before)
        for opened in (*self._namespaces, *([self._bridge] if hasattr(self, "_bridge") else [])):
            os.close(opened)
        os.close(self._home)
        self._room.close()

    # ---- inside a place

    @contextmanager
    def inside(self, place: int) -> Iterator[None]:
        """This thread is in that place: sockets that it opens belong there, and stay there."""
        _enter(self._namespaces[place])
        try:
            yield
        finally:
            _enter(self._home)

    def start(
        self,
        place: int,
        words: Sequence[str],
        *,
        env: dict[str, str] | None = None,
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
    ) -> "subprocess.Popen[bytes]":
        """A program in that place; its pid is that of the child, since each of the wrappers becomes the next."""
        namespace = self._namespaces[place]
        wrapped = ["nsenter", f"--net=/proc/self/fd/{namespace}", "setpriv", "--pdeathsig", "KILL", *words]
        child = subprocess.Popen(
            wrapped, env=env, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, pass_fds=[namespace]
        )
        self._children.append(child)
        return child

    def traffic(self, place: int) -> Traffic:
        """From the host's own end: what it counts as sent, it has sent."""
        lines = self._read(place, "/proc/thread-self/net/dev").splitlines()
        words = next(line for line in lines if line.strip().startswith("eth0:")).partition(":")[2].split()
        return Traffic(int(words[8]), int(words[9]), int(words[0]), int(words[1]))

    def cut(self, place: int, *, is_cut: bool = True) -> None:
        """Its wire: nothing gets in or out, and nobody says so."""
        self._ip(self._bridge, [f"link set h{place} {'down' if is_cut else 'up'}"])

    def lose(self, percent: float) -> None:
        """So much of what comes in, at every place, at random; each copy of a multicast on its own."""
        rules = ["*filter", ":INPUT ACCEPT"]
        if percent:
            rules.append(f"-A INPUT -i eth0 -m statistic --mode random --probability {percent / 100:.4f} -j DROP")
        table = "\n".join([*rules, "COMMIT", ""]).encode()
        for namespace in self._namespaces:
            for restore in ("iptables-restore", "ip6tables-restore"):
                words = ["nsenter", f"--net=/proc/self/fd/{namespace}", restore, "-w"]
                subprocess.run(words, input=table, check=True, pass_fds=[namespace])

    def make_room(self) -> None:
        """For neighbours. Again now and then: a lab of another tree may set it back to what it was when it ends."""
        wanted = 2 * self.places * self.places + SPARE_NEIGHBOURS
        for path in (folder / name for folder in NEIGHBOURS for name in THRESHOLDS):
            if path.exists() and int(path.read_text()) < wanted:
                self._thresholds.setdefault(path, (path.read_text(), str(wanted)))
                path.write_text(str(wanted))

    def _read(self, place: int, path: str) -> str:
        with self.inside(place):
            return Path(path).read_text()

    # ---- making it

    def _furnish_bridge(self) -> None:
        lines = ["link add br0 type bridge mcast_snooping 0 stp_state 0 forward_delay 0", "link set br0 up"]
        for place, namespace in enumerate(self._namespaces):
            inner = f"/proc/{os.getpid()}/fd/{namespace}"
            lines += [f"link add h{place} type veth peer name eth0 netns {inner}", f"link set h{place} master br0 up"]
        self._ip(self._bridge, lines)

    def _furnish(self, place: int) -> None:
        with self.inside(place):
            for each in ("all", "default", "eth0"):
                Path(f"/proc/sys/net/ipv6/conf/{each}/accept_dad").write_text("0")
                Path(f"/proc/sys/net/ipv6/conf/{each}/router_solicitations").write_text("0")
        address = f"addr add {self.ip(place)}/24 dev eth0"
        lines = ["link set lo up", address, "link set eth0 up", "route add 224.0.0.0/4 dev eth0"]
        self._ip(self._namespaces[place], lines)

    def _ip(self, namespace: int, lines: Sequence[str]) -> None:
        words = ["nsenter", f"--net=/proc/self/fd/{namespace}", "ip", "-batch", "-"]
        subprocess.run(words, input="\n".join(lines).encode(), check=True, pass_fds=[namespace])


def _new_namespace(home: int) -> int:
    if _libc.unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "no network namespaces here: this needs root")
    try:
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    finally:
        _enter(home)


def _enter(namespace: int) -> None:
    if _libc.setns(namespace, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
