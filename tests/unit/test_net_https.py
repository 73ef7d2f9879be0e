"""A user's requests: the host is pinned by its key, and what was not answered is told from what was never asked."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ssl import SSLError, SSLSocket

import pytest

from matcher.net.https import Connection, Door, Unanswered, Unreachable
from matcher.trust.identity import Identity, server_tls
from matcher.wire.codec import to_json
from matcher.wire.messages import Abandoned, Progress, Reason, Refused, VmView
from tests.fakes.realms import make_realm

ANSWERED = to_json(Abandoned()).encode()
REFUSED = to_json(Refused("not-found", (Reason("vm", "a VM", "none here", ""),))).encode()


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Identity]:
    """ann, h1 and h2 of one realm; eve and h9 of another."""
    top = tmp_path_factory.mktemp("realms")
    home, away = make_realm(top / "home", "ann", "h1", "h2"), make_realm(top / "away", "eve", "h9")
    return home.members | away.members


Script = Callable[[SSLSocket], None]


@contextmanager
def host(identity: Identity, script: Script, *, named: Identity | None = None) -> Iterator[Door]:
    """A front door that follows a script, once; `named`: whose key the user expects there."""
    context = server_tls(identity)
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            plain, _ = listening.accept()
            try:
                with context.wrap_socket(plain, server_side=True) as tls:
                    script(tls)
            except (SSLError, OSError):
                plain.close()

        thread = threading.Thread(target=serve)
        thread.start()
        yield Door("h1", (named or identity).principal.id, "127.0.0.1", listening.getsockname()[1])
        thread.join(timeout=5)
        assert not thread.is_alive()


def says(*parts: bytes) -> Script:
    def script(tls: SSLSocket) -> None:
        tls.recv(65536)
        for part in parts:
            tls.sendall(part)

    return script


def answer(body: bytes, status: int = 200, length: int | None = None) -> bytes:
    return b"HTTP/1.1 %d x\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body) if length is None else length, body)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def ask(identity: Identity, door: Door, timeout_s: float = 2.0) -> Abandoned | Refused:
    with Connection(identity, door, timeout_s=timeout_s) as connection:
        return connection.ask("GET", "/v1/vms", Abandoned)


def test_an_answer_of_the_host_that_was_meant_is_read(members: dict[str, Identity]) -> None:
    with host(members["h1"], says(answer(ANSWERED))) as door:
        assert ask(members["ann"], door) == Abandoned()


def test_a_refusal_is_an_answer(members: dict[str, Identity]) -> None:
    with host(members["h1"], says(answer(REFUSED, 404))) as door:
        refused = ask(members["ann"], door)
    assert isinstance(refused, Refused)
    assert refused.code == "not-found"


def test_another_host_of_the_realm_is_not_the_one_that_was_meant(members: dict[str, Identity]) -> None:
    asked: list[bytes] = []
    with (
        host(members["h2"], lambda tls: asked.append(tls.recv(100)), named=members["h1"]) as door,
        pytest.raises(Unreachable, match="another host answers there: h2"),
    ):
        ask(members["ann"], door)
    assert asked in ([], [b""]), "nothing was said to it"


def test_a_host_of_another_realm_is_nobody(members: dict[str, Identity]) -> None:
    with host(members["h9"], says(answer(ANSWERED)), named=members["h1"]) as door, pytest.raises(Unreachable):
        ask(members["ann"], door)


def test_a_user_cannot_pass_for_a_host(members: dict[str, Identity]) -> None:
    with host(members["ann"], says(answer(ANSWERED)), named=members["h1"]) as door, pytest.raises(Unreachable):
        ask(members["ann"], door)


def test_nobody_at_the_address_is_unreachable(members: dict[str, Identity]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    with pytest.raises(Unreachable, match="Connection refused"):
        ask(members["ann"], Door("h1", members["h1"].principal.id, "127.0.0.1", port))


def test_somebody_who_accepts_and_says_nothing_is_unreachable(members: dict[str, Identity]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        door = Door("h1", members["h1"].principal.id, "127.0.0.1", listening.getsockname()[1])
        begun_s = time.monotonic()
        with pytest.raises(Unreachable):
            ask(members["ann"], door, timeout_s=0.2)
        assert time.monotonic() - begun_s < 1


@pytest.mark.parametrize(
    "parts",
    [
        (),
        (b"HTTP/1.1 200 OK\r\n",),
        (b"SSH-2.0-OpenSSH\r\n\r\n",),
        (answer(ANSWERED[:5], length=len(ANSWERED)),),
        (answer(b"[]"),),
        (answer(b"\xff\xfe"),),
        (answer(b"<html>busy</html>", 502),),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{",),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n",),
    ],
)
def test_once_asked_whatever_goes_wrong_is_unanswered(members: dict[str, Identity], parts: tuple[bytes, ...]) -> None:
    with host(members["h1"], says(*parts)) as door, pytest.raises(Unanswered):
        ask(members["ann"], door)


def test_an_answer_that_does_not_come_in_time_is_unanswered(members: dict[str, Identity]) -> None:
    def silent(tls: SSLSocket) -> None:
        while tls.recv(65536):
            pass

    with host(members["h1"], silent) as door, pytest.raises(Unanswered):
        ask(members["ann"], door, timeout_s=0.2)


def test_bytes_that_break_off_are_not_taken_for_the_whole(members: dict[str, Identity]) -> None:
    with host(members["h1"], says(answer(b"half a log", length=100))) as door:
        connection = Connection(members["ann"], door, timeout_s=2)
        with connection, pytest.raises(Unanswered, match="breaks off"):
            connection.ask_bytes("GET", "/v1/vms/x/log")


def test_a_confirm_refused_is_the_refusal(members: dict[str, Identity]) -> None:
    with host(members["h1"], says(answer(REFUSED, 409))) as door, Connection(members["ann"], door, timeout_s=2) as to:
        assert isinstance(to.confirm(b"envelope"), Refused)


def test_a_confirm_whose_answer_is_cut_is_in_doubt(members: dict[str, Identity]) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    for parts in ((head,), (head, chunk(b'{"event": "comm')[:-4]), (head, b"0\r\n\r\n")):
        with (
            host(members["h1"], says(*parts)) as door,
            Connection(members["ann"], door, timeout_s=2) as connection,
            pytest.raises((Unanswered, EOFError)),
        ):
            connection.confirm(b"envelope")


VM = VmView(
    id="a" * 32,
    generation=1,
    name="web",
    user="ann",
    host="h1",
    host_id="1" * 64,
    state="committed",
    why="",
    domain="atomos-x",
    accelerator="kvm",
    arch="X86_64",
    addresses=(),
    vcpus=1,
    threads=(0,),
    threads_per_core=1,
    overprovision=1,
    numa=0,
    ram_mib=512,
    pci=(),
    volumes=(),
    specfile="{}",
)


def test_progress_may_take_longer_than_the_confirm_could(members: dict[str, Identity]) -> None:
    """Though the host has been told that it may hang up after its answer."""

    def slowly(tls: SSLSocket) -> None:
        assert b"\r\nConnection: close\r\n" in tls.recv(65536)
        tls.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n")
        tls.sendall(chunk(to_json(Progress("committed", VM)).encode() + b"\n"))
        time.sleep(0.4)
        tls.sendall(chunk(to_json(Progress("running", VM)).encode() + b"\n") + b"0\r\n\r\n")

    with host(members["h1"], slowly) as door, Connection(members["ann"], door, timeout_s=0.2) as connection:
        committed = connection.confirm(b"envelope")
        assert isinstance(committed, Progress)
        assert committed.event == "committed"
        assert [step.event for step in connection.progress(5.0)] == ["running"]
