"""Fetches an image from a URL: HTTPS or HTTP, of at most so many bytes, from an address that may be asked.

A name is resolved once for each request, and the connection goes to the address that was judged, so that a name whose
address changes in between leads nowhere. Redirects are few, each judged anew, and never lead from HTTPS to HTTP. A
server that sends too slowly is hung up on, whichever part of its answer it dawdles in. Proxies, cookies and passwords
are not for us. Python's own `http.client`, in the caller's thread: all of this package blocks, and no library more.
"""

import http.client
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from threading import Event, Thread
from typing import Self
from urllib.parse import SplitResult, urljoin, urlsplit

from storaged.beneath import Unusable, shown
from storaged.images.addresses import Address, Network, forbidden, parse_address
from storaged.images.ways import leads_home

REDIRECTS_MAX = 5
URL_MAX = 2048
CONNECT_S = 10.0  # for each address
ADDRESSES_MAX = 4
WINDOW_S = 20.0
WINDOW_MIN_BYTES = 64 * 1024  # in each window; a whole answer's head within one
PART_BYTES = 256 * 1024

_MOVED = (301, 302, 303, 307, 308)
_HEADERS = {"User-Agent": "atomos-storaged", "Accept": "*/*", "Accept-Encoding": "identity", "Connection": "close"}


@dataclass(frozen=True, slots=True)
class Fetching:
    """How this host fetches. `allowed`: addresses that are open all the same. `tls`: `None` for the machine's own
    authorities."""

    allowed: tuple[Network, ...] = ()
    tls: ssl.SSLContext | None = None
    window_s: float = WINDOW_S


@dataclass(frozen=True, slots=True)
class Fetched:
    """The body of an answer, still to be read. `size_bytes` is 0 where the server doesn't say."""

    stream: "_Body"
    size_bytes: int


@contextmanager
def fetched(url: str, *, most_bytes: int, how: Fetching | None = None) -> Iterator[Fetched]:
    """What is at `url`. Raises `Unusable` with what is wrong with the URL, the server or its answer."""
    how, left = how or Fetching(), REDIRECTS_MAX
    while True:
        with _asked(_checked(url), how) as (answer, watch):
            if answer.status not in _MOVED:
                yield _body(answer, watch, most_bytes)
                return
            url = _next_url(url, answer)
        if left == 0:
            raise Unusable(f"the URL redirects more than {REDIRECTS_MAX} times")
        left -= 1


def _checked(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise Unusable("the URL can't be read") from None
    if len(url) > URL_MAX or not url.isascii() or not url.isprintable() or " " in url:
        raise Unusable(f"a URL has at most {URL_MAX} characters, none of them blank; others are written as %20")
    if parts.scheme not in ("https", "http"):
        raise Unusable(f"a URL begins with https:// or http://, not {shown(parts.scheme[:20])}")
    if not parts.hostname:
        raise Unusable("the URL names no host")
    if parts.username is not None or parts.password is not None:
        raise Unusable("a URL with a password is not taken: it would be seen in logs")
    return parts


def _next_url(url: str, answer: http.client.HTTPResponse) -> str:
    location = answer.getheader("Location")
    if not location:
        raise Unusable("the URL redirects to nowhere")
    onward = urljoin(url, location)
    if url.lower().startswith("https:") and not onward.lower().startswith("https:"):
        raise Unusable("the URL redirects from HTTPS to something less")
    return onward


@contextmanager
def _asked(url: SplitResult, how: Fetching) -> Iterator[tuple[http.client.HTTPResponse, "_Watch"]]:
    assert url.hostname is not None
    port = url.port or (443 if url.scheme == "https" else 80)
    with ExitStack() as stack:
        raw = stack.enter_context(_connected(url.hostname, port, how))
        watch = stack.enter_context(_Watch(raw, how.window_s))
        connection = http.client.HTTPConnection(url.hostname, port)
        stack.callback(connection.close)
        with _translated(watch):
            tls = _tls(how) if url.scheme == "https" else None
            connection.sock = raw if tls is None else tls.wrap_socket(raw, server_hostname=url.hostname)
            path = (url.path or "/") + (f"?{url.query}" if url.query else "")
            connection.request("GET", path, headers={"Host": url.netloc, **_HEADERS})
            answer = connection.getresponse()
            stack.callback(answer.close)
            if watch.hung_up:  # to http.client, a head that breaks off has come to its end
                raise ConnectionAbortedError
        yield answer, watch


def _tls(how: Fetching) -> ssl.SSLContext:
    return how.tls or ssl.create_default_context()


def _connected(host: str, port: int, how: Fetching) -> socket.socket:
    """To the first of its addresses that answers."""
    problem: OSError | None = None
    for address in _addresses(host, port, how):
        try:
            raw = socket.create_connection((address, port), timeout=CONNECT_S)
        except OSError as refused:
            problem = refused
            continue
        raw.settimeout(None)  # the watch looks after it from now on
        return raw
    assert problem is not None
    raise Unusable(f"{shown(host)} can't be reached: {problem.strerror or problem}") from problem


def _addresses(host: str, port: int, how: Fetching) -> list[str]:
    """All of the name's; one that is forbidden forbids them all."""
    try:
        found = [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    except (OSError, UnicodeError) as problem:
        raise Unusable(f"the name {shown(host)} has no address") from problem
    for text in found:
        why = _why_not(parse_address(text), how)
        if why is not None:
            raise Unusable(f"nothing is fetched from {shown(host)} ({text}): {why}")
    return found[:ADDRESSES_MAX]


def _why_not(address: Address, how: Fetching) -> str | None:
    """Before anything is sent: who is refused does not learn which ports are open there."""
    if any(address in network for network in how.allowed):
        return None
    try:
        return forbidden(address) or leads_home(address)
    except OSError as problem:
        raise Unusable(f"this host's routes can't be read: {problem.strerror}") from problem


def _body(answer: http.client.HTTPResponse, watch: "_Watch", most_bytes: int) -> Fetched:
    if answer.status != 200:
        raise Unusable(f"the server answers {answer.status} {shown(answer.reason)[:60]}")
    if answer.getheader("Content-Encoding", "identity").lower() != "identity":
        raise Unusable("the server sends the image encoded, which was not asked for")
    if answer.length is None and not answer.chunked:
        raise Unusable("the server doesn't say how long the image is, so that nobody could tell when it is whole")
    size_bytes = answer.length or 0
    if size_bytes > most_bytes:
        raise Unusable(f"the image has {size_bytes} bytes, more than the {most_bytes} that are taken")
    return Fetched(_Body(answer, watch), size_bytes)


class _Body:
    """A `Stream` of an answer's bytes."""

    def __init__(self, answer: http.client.HTTPResponse, watch: "_Watch") -> None:
        self._answer, self._watch = answer, watch

    def read(self, size: int) -> bytes:
        with _translated(self._watch):
            part = self._answer.read1(min(size, PART_BYTES))
            self._watch.moved(len(part))
            if not part and self._answer.length:
                raise http.client.IncompleteRead(b"")
            return part


@contextmanager
def _translated(watch: "_Watch") -> Iterator[None]:
    """Errors of the connection and of HTTP, as sentences."""
    try:
        yield
    except (OSError, http.client.HTTPException) as problem:
        if watch.hung_up:
            raise Unusable("the server sends too slowly, and was hung up on") from problem
        if isinstance(problem, ssl.SSLCertVerificationError):
            raise Unusable(f"the server's certificate is not good: {problem.verify_message}") from problem
        if isinstance(problem, http.client.IncompleteRead):
            raise Unusable("the server hung up before the image was whole") from problem
        raise Unusable(f"the server can't be understood: {shown(str(problem))[:100]}") from problem


class _Watch:
    """Hangs up on a connection in which less than `WINDOW_MIN_BYTES` arrive within a window."""

    def __init__(self, raw: socket.socket, window_s: float) -> None:
        self._raw, self._window_s = raw, window_s
        self._moved = 0
        self._done = Event()
        self._thread = Thread(target=self._run, name="fetch-watch", daemon=True)
        self.hung_up = False

    def __enter__(self) -> Self:
        self._descriptor = socket.socket(fileno=socket.dup(self._raw.fileno()))  # TLS takes the other one away
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._descriptor.close()

    def moved(self, size_bytes: int) -> None:
        self._moved += size_bytes

    def _run(self) -> None:
        seen = 0
        while not self._done.wait(self._window_s):
            if self._moved - seen < WINDOW_MIN_BYTES:
                self.hung_up = True
                with suppress(OSError):
                    self._descriptor.shutdown(socket.SHUT_RDWR)
                return
            seen = self._moved
