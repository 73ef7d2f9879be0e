"""An image is fetched from a URL, and a server that cheats, dawdles or leads astray is told from one that doesn't."""

import datetime
import hashlib
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from storaged.beneath import Unusable
from storaged.images.fetch import REDIRECTS_MAX, Fetching, fetched
from storaged.images.importing import Incoming, import_image
from storaged.images.sandbox import Sandbox
from storaged.index import Index
from storaged.metadata import Metadata
from storaged.testing import vid_of
from tests.fakes.qcow2 import Qcow2

Answer = Callable[[socket.socket, bytes], None]
OPEN = Fetching(allowed=(ip_network("127.0.0.0/8"),))
MOST = 2**20
BODY = bytes(range(256)) * 1000


class Server:
    """Answers each connection on 127.0.0.1 as it was told to; remembers what it was asked."""

    def __init__(self, answer: Answer, tls: ssl.SSLContext | None = None) -> None:
        self.asked: list[bytes] = []
        self._answer, self._tls = answer, tls
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                talk, _ = self._listening.accept()
            except OSError:
                return
            with talk, suppress(OSError):
                secure = self._tls.wrap_socket(talk, server_side=True) if self._tls else talk
                with secure:
                    asked = b""
                    while not asked.endswith(b"\r\n\r\n") and (part := secure.recv(4096)):
                        asked += part
                    self.asked.append(asked)
                    self._answer(secure, asked)

    def close(self) -> None:
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(answer: Answer, tls: ssl.SSLContext | None = None) -> Server:
        servers.append(Server(answer, tls))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def says(head: str, body: bytes = b"") -> Answer:
    return lambda talk, _asked: talk.sendall(head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body)


def sends(body: bytes) -> Answer:
    return says(f"HTTP/1.1 200 OK\nContent-Length: {len(body)}", body)


def get(url: str, *, most_bytes: int = MOST, how: Fetching = OPEN) -> tuple[bytes, int]:
    with fetched(url, most_bytes=most_bytes, how=how) as answer:
        body = b""
        while part := answer.stream.read(4096):
            body += part
        return body, answer.size_bytes


def test_what_is_there_arrives(serve: Callable[..., Server]) -> None:
    server = serve(sends(BODY))
    assert get(f"http://127.0.0.1:{server.port}/a/b%20c?d=e#f") == (BODY, len(BODY))
    head = server.asked[0].decode()
    assert head.startswith("GET /a/b%20c?d=e HTTP/1.1\r\n")
    assert f"\r\nHost: 127.0.0.1:{server.port}\r\n" in head
    assert "\r\nAccept-Encoding: identity\r\n" in head


def test_chunks_arrive_too(serve: Callable[..., Server]) -> None:
    chunks = b"4\r\nabcd\r\n3\r\nefg\r\n0\r\n\r\n"
    server = serve(says("HTTP/1.1 200 OK\nTransfer-Encoding: chunked", chunks))
    assert get(f"http://127.0.0.1:{server.port}/") == (b"abcdefg", 0)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://example.org/x", "begins with https"),
        ("file:///etc/passwd", "begins with https"),
        ("nbd://127.0.0.1/x", "begins with https"),
        ("json:{}", "begins with https"),
        ("/etc/passwd", "begins with https"),
        ("http:///x", "no host"),
        ("http://user:secret@example.org/", "password"),
        ("http://[::1", "can't be read"),
        ("http://example.org:99999/", "can't be read"),
        ("http://example.org/a b", "none of them blank"),
        ("http://example.org/a\r\nHost: x", "none of them blank"),
        ("http://example.org/ü", "none of them blank"),
        ("http://example.org/" + "x" * 2048, "at most 2048"),
    ],
)
def test_what_is_no_url_of_an_image_is_refused(url: str, words: str) -> None:
    with pytest.raises(Unusable, match=words) as refused:
        get(url)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "[::1]", "localhost", "2130706433", "0x7f000001", "127.1", "0177.0.0.1", "0", "0.0.0.0"),
        *("169.254.169.254", "[fd00:ec2::254]", "[::ffff:169.254.169.254]", "[fe80::1]"),
    ],
)
def test_nobody_is_asked_who_may_not_be(host: str, serve: Callable[..., Server]) -> None:
    server = serve(sends(BODY))
    with pytest.raises(Unusable, match="nothing is fetched from"):
        get(f"http://{host}:{server.port}/", how=Fetching())
    assert server.asked == []


def own_address() -> str | None:
    """One of this host that is not loopback; a connected UDP socket knows, and sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, suppress(OSError):
        probe.connect(("192.0.2.1", 9))
        return str(probe.getsockname()[0])
    return None


@pytest.mark.skipif(own_address() is None, reason="this host has no address but loopback")
def test_the_host_itself_is_not_asked_by_its_other_addresses() -> None:
    with socket.create_server(("0.0.0.0", 0)) as listening:
        with pytest.raises(Unusable, match="the host itself"):
            get(f"http://{own_address()}:{listening.getsockname()[1]}/", how=Fetching())
        listening.setblocking(False)
        with pytest.raises(BlockingIOError):  # not even to learn whether somebody listens there
            listening.accept()


def test_a_name_with_one_forbidden_address_is_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
    both = [(*entry, ("93.184.216.34", 80)), (*entry, ("169.254.169.254", 80))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_more: both)
    with pytest.raises(Unusable, match=r"mirror\.example \(169\.254\.169\.254\)"):
        get("http://mirror.example/")


def test_the_connection_goes_to_the_address_that_was_judged(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that has another address the second time is not asked a second time."""
    server = serve(sends(BODY))
    asked: list[str] = []
    real = socket.getaddrinfo

    def rebinding(host: str, port: int, *args: int, **more: int) -> object:
        asked.append(host)
        return real("127.0.0.1" if asked.count("rebind.example") <= 1 else "127.0.0.2", port, *args, **more)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    assert get(f"http://rebind.example:{server.port}/")[0] == BODY
    assert asked.count("rebind.example") == 1
    assert f"Host: rebind.example:{server.port}".encode() in server.asked[0]


def test_redirects_are_followed_and_each_is_judged(serve: Callable[..., Server]) -> None:
    target = serve(sends(BODY))

    def answer(talk: socket.socket, asked: bytes) -> None:
        path = asked.split()[1].decode()
        where = {"/a": "/b", "/b": f"http://127.0.0.1:{target.port}/c"}.get(path, "http://169.254.169.254/latest")
        says(f"HTTP/1.1 302 Found\nLocation: {where}\nContent-Length: 0")(talk, asked)

    server = serve(answer)
    assert get(f"http://127.0.0.1:{server.port}/a")[0] == BODY
    with pytest.raises(Unusable, match=r"169\.254\.169\.254"):
        get(f"http://127.0.0.1:{server.port}/evil")


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("file:///etc/passwd", "begins with"),
        ("//[::1]:1/", "nothing is fetched"),
        ("http://[::ffff:169.254.169.254]/latest", "nothing is fetched"),
        ("http://2852039166/latest", "nothing is fetched"),  # 169.254.169.254
        ("http://[64:ff9b::a9fe:a9fe]/latest", "nothing is fetched"),
        ("http://u:p@127.0.0.1/", "password"),
    ],
)
def test_a_redirect_to_something_else_is_refused(serve: Callable[..., Server], where: str, words: str) -> None:
    server = serve(says(f"HTTP/1.1 301 Moved\nLocation: {where}\nContent-Length: 0"))
    with pytest.raises(Unusable, match=words):
        get(f"http://127.0.0.1:{server.port}/")


def test_redirects_end(serve: Callable[..., Server]) -> None:
    server = serve(says("HTTP/1.1 307 Again\nLocation: /\nContent-Length: 0"))
    with pytest.raises(Unusable, match="more than 5 times"):
        get(f"http://127.0.0.1:{server.port}/")
    assert len(server.asked) == 1 + REDIRECTS_MAX


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (says("HTTP/1.1 404 Not\033[2JFound\nContent-Length: 0"), "answers 404"),
        (says("HTTP/1.1 206 Partial\nContent-Length: 3", b"abc"), "answers 206"),
        (says("HTTP/1.1 302 Found\nContent-Length: 0"), "redirects to nowhere"),
        (says(f"HTTP/1.1 200 OK\nContent-Length: {MOST + 1}"), "more than the 1048576"),
        (says("HTTP/1.1 200 OK\nContent-Encoding: gzip\nContent-Length: 3", b"abc"), "encoded"),
        (says("HTTP/1.1 200 OK", b"abc"), "how long"),
        (says("HTTP/1.1 200 OK\nContent-Length: 10", b"abc"), "before the image was whole"),
        (says("HTTP/1.1 200 OK\nTransfer-Encoding: chunked", b"4\r\nab"), "before the image was whole"),
        (says("HTTP/1.1 200 OK\nTransfer-Encoding: chunked", b"zz\r\nab"), "the server"),
        (says("SSH-2.0-OpenSSH"), "can't be understood"),
        (says("HTTP/1.1 200 OK\n" + "X: y\n" * 200 + "Z: z"), "can't be understood"),
        (says("HTTP/1.1 200 OK\nX: " + "y" * 70_000), "can't be understood"),
        (says(""), "can't be understood"),
        (lambda _talk, _asked: None, "can't be understood"),
    ],
)
def test_what_is_wrong_with_an_answer_is_said(serve: Callable[..., Server], answer: Answer, words: str) -> None:
    server = serve(answer)
    with pytest.raises(Unusable, match=words) as refused:
        get(f"http://127.0.0.1:{server.port}/")
    assert str(refused.value).isprintable()


def dripping(head: bytes) -> Answer:
    def answer(talk: socket.socket, _asked: bytes) -> None:
        talk.sendall(head)
        with suppress(OSError):
            while not threading.Event().wait(0.02):
                talk.sendall(b"x")

    return answer


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nX: ",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4;",
    ],
)
def test_a_server_that_dawdles_is_hung_up_on(serve: Callable[..., Server], head: bytes) -> None:
    server = serve(dripping(head))
    with pytest.raises(Unusable, match="too slowly"):
        get(f"http://127.0.0.1:{server.port}/", how=Fetching(OPEN.allowed, window_s=0.3))


def test_a_port_where_nobody_listens_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    with pytest.raises(Unusable, match="can't be reached: Connection refused"):
        get(f"http://127.0.0.1:{port}/")


def test_an_image_is_imported_from_where_it_is(serve: Callable[..., Server], tmp_path: Path) -> None:
    image = Qcow2().image()
    server = serve(sends(image))
    with fetched(f"http://127.0.0.1:{server.port}/debian.qcow2", most_bytes=MOST, how=OPEN) as found:
        incoming = Incoming(found.stream, size_bytes=found.size_bytes, sha256=hashlib.sha256(image).hexdigest())
        import_image(Sandbox.of(), str(tmp_path), vid_of(1), Metadata(128, "debian"), incoming, most_mib=128)
    assert Index().scan([tmp_path]).volumes[vid_of(1)].name == "debian"


def test_a_server_that_hangs_up_under_way_leaves_nothing(serve: Callable[..., Server], tmp_path: Path) -> None:
    image = Qcow2().image()
    server = serve(says(f"HTTP/1.1 200 OK\nContent-Length: {len(image)}", image[:-1]))
    with fetched(f"http://127.0.0.1:{server.port}/", most_bytes=MOST, how=OPEN) as found:
        incoming = Incoming(found.stream, size_bytes=found.size_bytes)
        with pytest.raises(Unusable, match="hung up"):
            import_image(Sandbox.of(), str(tmp_path), vid_of(1), Metadata(128, "debian"), incoming, most_mib=128)
    assert os.listdir(tmp_path) == []


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mirror")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "mirror.pem"
    plain = serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    path.write_bytes(pem + made.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture
def secure(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def test_https_is_checked_against_its_authorities(
    serve: Callable[..., Server], secure: ssl.SSLContext, certificate: Path
) -> None:
    server = serve(sends(BODY), secure)
    trusting = Fetching(OPEN.allowed, ssl.create_default_context(cafile=str(certificate)))
    assert get(f"https://127.0.0.1:{server.port}/", how=trusting)[0] == BODY
    with pytest.raises(Unusable, match="certificate is not good"):
        get(f"https://127.0.0.1:{server.port}/")


def test_https_never_leads_to_http(serve: Callable[..., Server], secure: ssl.SSLContext, certificate: Path) -> None:
    plain = serve(sends(BODY))
    server = serve(says(f"HTTP/1.1 302 F\nLocation: http://127.0.0.1:{plain.port}/\nContent-Length: 0"), secure)
    trusting = Fetching(OPEN.allowed, ssl.create_default_context(cafile=str(certificate)))
    with pytest.raises(Unusable, match="from HTTPS"):
        get(f"https://127.0.0.1:{server.port}/", how=trusting)
    assert plain.asked == []


def test_a_dawdling_server_is_hung_up_on_behind_tls_too(
    serve: Callable[..., Server], secure: ssl.SSLContext, certificate: Path
) -> None:
    server = serve(dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"), secure)
    how = Fetching(OPEN.allowed, ssl.create_default_context(cafile=str(certificate)), window_s=0.3)
    with pytest.raises(Unusable, match="too slowly"):
        get(f"https://127.0.0.1:{server.port}/", how=how)
