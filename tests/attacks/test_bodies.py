"""Bodies and connections that are none, at a real front door: a typed no that names the problem, and nothing changes.

Whoever sends them is a member, and has signed what is to be signed: the decoder is what has to refuse it.
"""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from matcher.wire.codec import BODY_MAX_BYTES
from matcher.wire.framing import frame
from tests.attacks.bodies import LONG, packed
from tests.attacks.conftest import Enemy, memory_stays, nothing_changes
from tests.lab.conftest import Lab
from tests.lab.vms import electros, plainly

pytestmark = pytest.mark.lab

H1 = "10.98.0.1"
SIGNED = ("CONFIRM", "PLEDGE", "ABANDON")
USERS = "/v1/realm/users"
BOMBS = ("too deep", "array of 2^32", "text of 2^32", "nested headers")
INVITE = json.dumps({"name": "smuggled", "grant": {"verbs": ["pledge"]}})

SAID: dict[str, list[str]] = {
    "repeated key": ["repeated key"],
    "not finite": ["not finite"],
    "extension": ["an extension"],
    "timestamp": ["an extension"],
    "tail": ["more bytes than one message"],
    "bad utf-8": ["utf-8"],
    "nul": ["NUL"],
    "size": ["generation: ", "vm.slots: ", "vm.ram_mib: "],
    "unknown field": ["xml: Unexpected"],
    "bytes for text": ["bytes where text belongs", "offer_id: ", "pledge_id: "],
    "too deep": ["too deep"],
    "array of 2^32": ["more items than bytes"],
    "text of 2^32": ["truncated", "NUL"],  # it has all that follows
    "nested headers": ["more items than bytes"],
    "truncated": ["truncated", "more items than bytes"],
    "no message": ["truncated", "shape: ", "no msgpack", "tail: "],
}
ENVELOPES: dict[str, list[str]] = {
    "truncated": ["length", "tag"],
    "tail": ["padding"],
    "version": ["version: "],
    "kind": ["kind", "signature"],
    "length": ["tag"],
}


Answers = Sequence[dict[str, Any]]


@pytest.fixture
def at_h1(target: Lab) -> dict[str, str]:
    """Who attacks, and where."""
    return {"identity": str(target.folder("client") / "config/atomos/default"), "host": H1}


def each_names_one(said: dict[str, Answers], words: dict[str, list[str]]) -> None:
    """Every answer is a refusal of one reason, which is named by one of its way's words."""
    assert said.keys() == words.keys()
    for way, answers in said.items():
        assert answers, way
        for answer in answers:
            refused = json.loads(answer["body"])
            assert (answer["status"], refused["code"]) == (400, "bad-request"), (way, answer)
            (reason,) = refused["reasons"]
            assert any(word in reason["has"] for word in words[way]), (way, answer)


# ---- bodies that are signed


@pytest.mark.parametrize("kind", SIGNED)
def test_an_honest_body_of_the_same_making_is_read(enemy: Enemy, at_h1: dict[str, str], kind: str) -> None:
    """Else all that is refused below would prove nothing: this one is judged by what it says."""
    ((answer,),) = enemy.does(do="post", kind=kind, ways=["honest"], **at_h1).values()
    assert answer["status"] == (409 if kind == "CONFIRM" else 200)
    assert kind != "CONFIRM" or json.loads(answer["body"])["code"] == "hold-lapsed"


@pytest.mark.parametrize("kind", SIGNED)
def test_a_signed_body_that_is_no_message_is_refused_and_told_why(
    target: Lab, enemy: Enemy, at_h1: dict[str, str], kind: str
) -> None:
    with nothing_changes(target):
        each_names_one(enemy.does(do="post", kind=kind, ways=list(SAID), **at_h1), SAID)


def test_an_envelope_that_is_none_is_refused_and_told_why(target: Lab, enemy: Enemy, at_h1: dict[str, str]) -> None:
    with nothing_changes(target):
        each_names_one(enemy.does(do="envelopes", **at_h1), ENVELOPES)


def test_a_bomb_takes_no_memory(target: Lab, enemy: Enemy, at_h1: dict[str, str]) -> None:
    enemy.does(do="post", kind="CONFIRM", ways=["long"], **at_h1)  # what any body of that length takes, it has by then
    with nothing_changes(target), memory_stays(target):
        for kind in ("CONFIRM", "PLEDGE"):
            enemy.does(do="post", kind=kind, ways=list(BOMBS), **at_h1)


# ---- JSON

JSON_SAID: dict[str, tuple[list[bytes], list[str]]] = {
    "repeated key": ([b'{"name":"a","name":"b"}', b'{"name":"a","grant":{"slots":1,"slots":2}}'], ["repeated key"]),
    "not finite": (
        [b'{"name":"a","grant":{"slots":%s}}' % number for number in (b"NaN", b"Infinity", b"-Infinity", b"1e999")],
        ["is not one", "valid integer", "finite"],
    ),
    "tail": ([b'{"name":"a"} {}', b'{"name":"a"}\0'], ["Extra data", "NUL"]),
    "bad utf-8": ([b'{"name":"\xff\xfe"}', b'{"name":"\xed\xa0\x80"}', b'{"name":"\\ud800"}'], ["utf-8", "hex escape"]),
    "nul": ([b'{"name":"a\\u0000b"}'], ["NUL"]),
    "size": (
        [b'{"name":"a","grant":{"slots":%s}}' % number for number in (b"18446744073709551615", b"-1", b"true", b"1.0")],
        ["grant.slots: "],
    ),
    "unknown field": (
        [b'{"name":"a","grant":{},"xml":"<x/>"}', b'{"name":"a","grant":{"root":true}}'],
        ["xml: ", "grant.root: "],
    ),
    "too deep": ([b"[" * depth + b"]" * depth for depth in (18, 2000, LONG // 2)], ["too deep", "recursion"]),
    "truncated": ([INVITE.encode()[:size] for size in range(0, len(INVITE), 3)], ["json: "]),
    "no message": ([b"", b"null", b"[]", b'"a"', b"\x81\xa4name\xa1a"], ["json: ", "InviteUser: "]),
}


def test_json_that_is_no_message_is_refused_and_told_why(target: Lab, enemy: Enemy, at_h1: dict[str, str]) -> None:
    ways = {way: [packed(body) for body in bodies] for way, (bodies, _) in JSON_SAID.items()}
    with nothing_changes(target):
        said = enemy.does(do="documents", path=USERS, ways=ways, **at_h1)
        each_names_one(said, {way: words for way, (_, words) in JSON_SAID.items()})


# ---- lengths


def head(*lines: str, method: str = "POST", path: str = USERS) -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: h1", *lines, "", ""]).encode()


def spoken(enemy: Enemy, at_h1: dict[str, str], visits: dict[str, list[bytes]], *, apart_s: float) -> dict[str, Any]:
    """By the name of the visit: all answers, once the host has ended it."""
    pieces = [[packed(piece) for piece in each] for each in visits.values()]
    ends = enemy.does(do="speak", visits=pieces, apart_s=apart_s, **at_h1)
    assert all(end["ended"] for end in ends)
    said = [[f"HTTP/1.1 {answer}" for answer in end["said"].split("HTTP/1.1 ")[1:]] for end in ends]
    return dict(zip(visits, said, strict=True))


EMPTY = b"0\r\n\r\n"
CHUNK = b"%x\r\n%s\r\n" % (LONG, b" " * LONG)
TOO_LONG = {
    "told": [head(f"Content-Length: {BODY_MAX_BYTES + 1}")],
    "told beyond reason": [head("Content-Length: 99999999999999999999")],
    "told and sent": [head(f"Content-Length: {BODY_MAX_BYTES * 8}") + b" " * BODY_MAX_BYTES * 8],
    "chunked": [head("Transfer-Encoding: chunked") + CHUNK * 5 + EMPTY],
    "one chunk of 4 GiB": [head("Transfer-Encoding: chunked") + b"FFFFFFFF\r\n" + b" " * BODY_MAX_BYTES * 2],
}


def test_a_body_beyond_the_limit_is_refused_and_not_kept(target: Lab, enemy: Enemy, at_h1: dict[str, str]) -> None:
    with nothing_changes(target), memory_stays(target):
        for way, answers in spoken(enemy, at_h1, TOO_LONG, apart_s=0.0).items():
            (answer,) = answers
            assert answer.startswith("HTTP/1.1 413 "), (way, answer)
            assert f"at most {BODY_MAX_BYTES} bytes" in answer, (way, answer)


def test_a_body_whose_length_is_not_told_is_none(target: Lab, enemy: Enemy, at_h1: dict[str, str]) -> None:
    """Neither a number nor chunks: what follows is no body."""
    visits = {"not told": [head("Connection: close"), b" " * BODY_MAX_BYTES * 2]}
    with nothing_changes(target):
        (answer,) = spoken(enemy, at_h1, visits, apart_s=0.0)["not told"]
        assert answer.startswith("HTTP/1.1 400 "), answer


# ---- slowness


def test_who_is_slow_is_hung_up_on_and_members_are_served_meanwhile(
    target: Lab, enemy: Enemy, at_h1: dict[str, str]
) -> None:
    """In the handshake, in the head and in the body: each would go on for minutes. Or a body breaks off."""
    bytewise = [packed(bytes([byte])) for byte in head()]
    slow: dict[str, dict[str, Any]] = {
        "handshake": {"do": "dawdle"},
        "head": {"do": "speak", "visits": [bytewise]},
        "body": {"do": "speak", "visits": [[packed(head("Content-Length: 1000")), *[packed(b" ")] * 999]]},
        "rest of a body": {
            "do": "speak",
            "visits": [[packed(head(f"Content-Length: {len(INVITE) + 1}") + INVITE.encode())]],
        },
    }
    with nothing_changes(target):
        dawdling = [enemy.popen(apart_s=1.0, **job, **at_h1) for job in slow.values()]
        while any(one.poll() is None for one in dawdling):
            assert electros(target, "whoami").document
        for way, one in zip(slow, dawdling, strict=True):
            said = json.loads(one.communicate()[0])
            (end,) = said if isinstance(said, list) else [said]
            assert end == {"said": "", "ended": True}, way


# ---- one request in another

SMUGGLED = head(f"Content-Length: {len(INVITE)}") + INVITE.encode()
LISTING: dict[str, str] = {"method": "GET", "path": "/v1/vms"}
AMBIGUOUS = {
    "absolute form": head(method="GET", path=f"http://{H1}/v1/vms"),
    "absolute form of another host": head(method="GET", path="http://h2/v1/vms"),
    "authority form": head(method="CONNECT", path="h2:7766"),
    "length and chunks": head(f"Content-Length: {len(EMPTY + SMUGGLED)}", "Transfer-Encoding: chunked") + EMPTY,
    "chunks and length": head("Transfer-Encoding: chunked", f"Content-Length: {len(EMPTY + SMUGGLED)}") + EMPTY,
    "length and an unknown coding": head("Content-Length: 0", "Transfer-Encoding: xchunked"),
    "two codings": head("Transfer-Encoding: chunked", "Transfer-Encoding: identity") + EMPTY,
    "space before the colon": head("Transfer-Encoding : chunked") + EMPTY,
    "two lengths": head(f"Content-Length: {len(SMUGGLED)}", "Content-Length: 0"),
    "two lengths, the other first": head("Content-Length: 0", f"Content-Length: {len(SMUGGLED)}"),
    "two lengths in one": head(f"Content-Length: 0, {len(SMUGGLED)}"),
    "a length with a sign": head("Content-Length: +0"),
    "a negative length": head("Content-Length: -1"),
    "a bare LF ends the head": head(**LISTING)[:-4] + b"\n\n",
    "bare LF alone": head(**LISTING).replace(b"\r", b""),
    "a bare LF in a field": head("X: y\n\n", **LISTING)[:-6],
    "a bare CR": head("X: y\r", **LISTING),
    "a bare LF ends a chunk": head("Transfer-Encoding: chunked") + b"0\n\n",
    "a bare LF in a chunk's extension": head("Transfer-Encoding: chunked") + b"2;\n{}\r\n" + EMPTY,
}


def test_the_same_request_by_itself_is_carried_out(target: Lab, enemy: Enemy, at_h1: dict[str, str]) -> None:
    """Else nothing would be shown below."""
    alone = SMUGGLED.replace(b"smuggled", b"openly--").replace(b"Host: h1", b"Host: h1\r\nConnection: close")
    (answer,) = spoken(enemy, at_h1, {"alone": [alone]}, apart_s=0.0)["alone"]
    assert answer.startswith("HTTP/1.1 200 "), answer


def test_no_second_request_rides_in_the_first(target: Lab, enemy: Enemy, at_h1: dict[str, str]) -> None:
    together = {way: [first + SMUGGLED] for way, first in AMBIGUOUS.items()}
    later = {way: [first, SMUGGLED] for way, first in AMBIGUOUS.items()}
    with nothing_changes(target):
        for visits, apart_s in ((together, 0.0), (later, 0.5)):
            for way, answers in spoken(enemy, at_h1, visits, apart_s=apart_s).items():
                assert len(answers) <= 1, (way, answers)
                assert all(answer.split()[1] in ("400", "501") for answer in answers), (way, answers)


# ---- joining


def test_a_stranger_who_joins_with_nonsense_is_hung_up_on_and_takes_no_memory(
    target: Lab, enemy: Enemy, at_h1: dict[str, str]
) -> None:
    """While a token is pending: four GiB announced; what is no message; what never ends."""
    login = plainly(target, "user", "add", "later", "-o", "name").out.strip()
    assert login
    pieces = [
        b"\xff\xff\xff\xff" + bytes(1000),
        b"\xff\xff\xff\xff",
        (9000).to_bytes(4, "big") + bytes(9000),
        *(frame([body]) for body in (b"", b"\xdd\xff\xff\xff\xff", b"\xdd\xff\xff\xff\xff" * 1600, b"\x91" * 8000)),
        frame([b"\x80"]) + b"tail",
        b"GET / HTTP/1.1\r\n\r\n",
    ]
    job = {"do": "join", "host": H1}
    enemy.does(pieces=[packed(frame([b" " * 8000]))], **job)
    with nothing_changes(target), memory_stays(target):
        for end in enemy.does(pieces=[packed(piece) for piece in pieces], **job):
            assert end["welcome"] > 0
            assert (end["said"], end["ended"]) == ("", True)
