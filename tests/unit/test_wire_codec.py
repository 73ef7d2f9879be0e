"""The codec takes what the messages allow, and nothing that merely looks like it."""

import json
import math
from dataclasses import fields
from enum import Enum
from typing import Any, get_type_hints

import msgpack
import pytest

from matcher.wire import messages as m
from matcher.wire.codec import BODY_MAX_BYTES, DEPTH_MAX, ITEMS_MAX, BadBytes, decode, encode, from_json, to_json
from matcher.wire.volumes import CloneVolume, Detached, NewVolume

ASK = m.VmAsk(
    slots=2,
    smt=False,
    overprovision=1,
    archs=(m.Arch.X86_64, m.Arch.ARM_8),
    flags=("avx2", "sse4_2"),
    ram_mib=2048,
    ecc=False,
    pci=(m.PciAsk("10de", "24b0", 1),),
    firmware=m.Firmware.UEFI,
    allow_emulation=True,
)
PLEDGE = m.Pledge(
    pledge_id="0a" * 16,
    sent_at_ms=1_700_000_000_000,
    reply=(m.Address("10.0.0.1", 4711), m.Address("fe80::1", 4712)),
    dry=False,
    vm_id="0b" * 16,
    generation=1,
    vm=ASK,
    volumes=("0c" * 16,),
    seal=bytes(range(32)),
    hold_ms=3000,
    hosts_known=3,
    policy=m.Policy.PACK,
)
OFFER = m.VmOffer(
    pledge_id="0a" * 16,
    offer_id="0d" * 16,
    host="h1",
    front_door_port=8443,
    hosts_known=3,
    expires_in_ms=3000,
    score=0.5,
    threads=(0, 48),
    threads_per_core=2,
    numa=-1,
    pci=("0000:3b:00.0",),
    arch=m.Arch.X86_64,
    accelerator=m.Accelerator.KVM,
)
UNFIT = m.Unfit("0a" * 16, "h1", m.Role.STORAGE, 3, (m.Reason("ram", "4 GiB", "1 GiB", "ask for less"),))
REVEAL = m.Reveal("0a" * 16, b"\xff\x00", None)


def wire(message: m.Message, **changes: Any) -> dict[str, Any]:
    plain = msgpack.unpackb(encode(message), use_list=False)
    return {**plain, **changes}


def refused(cls: type[m.Message], plain: object) -> str:
    with pytest.raises(BadBytes) as caught:
        decode(cls, msgpack.packb(plain), max_bytes=BODY_MAX_BYTES)
    return caught.value.reason


def refused_bytes(data: bytes, max_bytes: int = BODY_MAX_BYTES) -> str:
    with pytest.raises(BadBytes) as caught:
        decode(m.Pledge, data, max_bytes=max_bytes)
    return caught.value.reason


def refused_json(cls: type[m.Message], text: str | bytes) -> str:
    with pytest.raises(BadBytes) as caught:
        from_json(cls, text)
    return caught.value.reason


@pytest.mark.parametrize("message", [PLEDGE, OFFER, UNFIT, REVEAL, Detached()], ids=lambda msg: type(msg).__name__)
def test_a_message_survives_msgpack_and_json(message: m.Message) -> None:
    assert decode(type(message), encode(message)) == message
    assert from_json(type(message), to_json(message)) == message
    assert from_json(type(message), to_json(message).encode()) == message


def test_a_padded_pledge_with_two_addresses_and_a_device_leaves_room_for_its_certificate() -> None:
    assert len(encode(PLEDGE)) < 500


def test_bytes_are_base64url_in_json() -> None:
    assert json.loads(to_json(REVEAL))["secret"] == "_wA="


def wrong_values(base: object) -> list[object]:
    """What a lenient parser would take for a value of this type."""
    if isinstance(base, type) and issubclass(base, Enum):
        return [None, 0, b"compute", "Compute", " pack", ("pack",)]
    table: dict[object, list[object]] = {
        bool: [None, 0, 1, "true", "1", b"1", 1.0],
        int: [None, True, False, "1", b"1", 1.0, 1.5, -2, 2**63, 2**64 - 1],
        float: [None, True, "0.5", b"0.5", 1.01, -0.01, 10**9],
        str: [None, 1, True, b"0a", 0.5, ["0a"]],
        bytes: [None, 1, True, "0a", ["0a"], bytes(BODY_MAX_BYTES - 999)],
        tuple: [None, "", b"", 0, {}, "0a" * 16, {"0": "0a" * 16}],
    }
    return table.get(base, [0, "", b"", (), True])


def cases() -> list[Any]:
    found = []
    for message in (PLEDGE, ASK, OFFER, UNFIT, REVEAL):
        hints = get_type_hints(type(message))
        for field in fields(message):
            hint = hints[field.name]
            optional = type(None) in getattr(hint, "__args__", ())
            base = hint.__args__[0] if optional else getattr(hint, "__origin__", hint)
            found += [
                pytest.param(
                    message, field.name, value, id=f"{type(message).__name__}.{field.name}={str(value)[:12]!r}"
                )
                for value in wrong_values(base)
                if not (optional and value is None) and not (field.name == "threads" and value == "")
            ]
    return found


@pytest.mark.parametrize(("message", "name", "value"), cases())
def test_no_value_is_coerced(message: m.Message, name: str, value: object) -> None:
    assert refused(type(message), wire(message, **{name: value})) in {"shape", "length"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("dry", '"true"'),
        ("dry", "1"),
        ("generation", "true"),
        ("generation", '"1"'),
        ("generation", "1.0"),
        ("generation", "1e0"),
        ("generation", "9" * 5000),
        ("vm_id", "1"),
        ("seal", '"!!!!"'),
        ("seal", '"' + "AAAA" * 11 + '"'),
        ("seal", "[1]"),
        ("reply", "{}"),
        ("policy", "null"),
    ],
)
def test_no_value_is_coerced_from_json(name: str, text: str) -> None:
    plain = json.loads(to_json(PLEDGE))
    rest = json.dumps({key: value for key, value in plain.items() if key != name})
    assert refused_json(m.Pledge, f'{rest[:-1]}, "{name}": {text}}}') in {"shape", "json"}


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        ("NaN", "number"),
        ("Infinity", "number"),
        ("-Infinity", "number"),
        ("1e999", "shape"),
        ("-1e999", "shape"),
        ('"NaN"', "shape"),
    ],
)
def test_json_holds_finite_numbers_alone(number: str, reason: str) -> None:
    assert refused_json(m.VmOffer, to_json(OFFER).replace("0.5", number)) == reason


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("single", [True, False])
def test_msgpack_holds_finite_numbers_alone(number: float, single: bool) -> None:
    data = msgpack.packb(wire(OFFER, score=number), use_single_float=single)
    with pytest.raises(BadBytes, match="number: not finite"):
        decode(m.VmOffer, data)


@pytest.mark.parametrize(
    "vid",
    [
        "",
        "zz",
        "g" * 32,
        "0" * 31,
        "0" * 33,
        "A" * 32,
        "../../../../../../../etc/passwd0",
        "0" * 31 + "\0",
        "0" * 32 + "\n",
    ],
)
def test_nothing_but_an_id_names_what_is_made(vid: str) -> None:
    """A folder is called so."""
    new = NewVolume("0" * 32, "0" * 32, "data", 128, m.ImageFormat.RAW, False, False, False, False)
    honest = json.loads(to_json(new))
    assert from_json(NewVolume, json.dumps(honest)) == new
    with pytest.raises(BadBytes):
        from_json(NewVolume, json.dumps(honest | {"vid": vid}))
    with pytest.raises(BadBytes):
        from_json(CloneVolume, json.dumps({"vid": vid, "name": "data", "private": False}))


def test_unknown_and_missing_fields_are_refused() -> None:
    assert refused(m.Pledge, wire(PLEDGE, nice=1)) == "shape"
    assert refused(m.Pledge, {key: value for key, value in wire(PLEDGE).items() if key != "dry"}) == "shape"
    assert refused(m.Pledge, wire(PLEDGE, vm=wire(ASK, nice=1))) == "shape"
    assert refused_json(m.Reveal, to_json(REVEAL).replace("{", '{"nice":1,', 1)) == "shape"


def test_another_message_is_refused() -> None:
    assert refused(m.Reveal, wire(PLEDGE)) == "shape"
    for other in (None, 1, "x", b"x", [], [1], {}, True, list(wire(REVEAL).values())):
        assert refused(m.Reveal, other) == "shape"


def test_a_shape_error_says_where_and_never_repeats_what_was_sent() -> None:
    with pytest.raises(BadBytes) as caught:
        decode(m.Pledge, msgpack.packb(wire(PLEDGE, vm=wire(ASK, ram_mib="secret"))))
    assert caught.value.detail.startswith("vm.ram_mib: ")
    assert "secret" not in str(caught.value)


def test_repeated_keys_are_refused_at_any_depth() -> None:
    inner = encode(m.Address("10.0.0.1", 1))
    repeated = bytes([inner[0] + 1]) + inner[1:] + msgpack.packb("port") + msgpack.packb(2)
    assert refused_bytes(b"\x82\xa1a\x01\xa1a\x02") == "repeated key"
    assert refused_bytes(b"\x81\xa1a" + repeated) == "repeated key"
    assert refused_json(m.Reveal, to_json(REVEAL).replace("{", '{"keep":null,', 1)) == "repeated key"
    assert refused_json(m.Reveal, '{"a":[{"b":1,"\\u0062":2}]}') == "repeated key"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "truncated"),
        (b"\x81", "container"),
        (b"\x81\xa4abc", "truncated"),
        (b"\xd9\xff", "truncated"),
        (b"\xd9", "truncated"),
        (b"\xc4\x05abcd", "truncated"),
        (b"\xcb\x00", "truncated"),
        (b"\xcd\x00", "truncated"),
        (b"\xdb\xff\xff\xff\xff", "truncated"),
        (b"\xdd\xff\xff\xff\xff\x01", "container"),
        (b"\xdf\xff\xff\xff\xff\x01", "container"),
        (b"\xc1", "type"),
        (b"\xd4\x01\x01", "type"),
        (b"\xd6\xff\x00\x00\x00\x01", "type"),  # a timestamp
        (b"\xc7\x0c\xff" + b"\xff" * 12, "type"),  # a timestamp beyond every calendar
        (b"\xc7\x00\x05", "type"),
        (b"\x01\x01", "tail"),
        (b"\x80\xc0", "tail"),
        (b"\xa2\xc3\x28", "msgpack"),  # not UTF-8
        (b"\xa3\xed\xa0\x80", "msgpack"),  # a surrogate
        (b"\xa2\xc0\x80", "msgpack"),  # NUL in two bytes
        (b"\x81\x01\x01", "msgpack"),  # a number as key
        (b"\x81\xc0\x01", "msgpack"),
        (b"\x81\x90\x01", "msgpack"),
        (b"\xa3a\x00b", "nul"),
        (b"\xd9\x03a\x00b", "nul"),
        (b"\x81\xa1\x00\x01", "nul"),
        (b"\x82\xa1a\x00\xa1b\xa1\x00", "nul"),  # behind a zero that is a number
        (b"\x82\xa1a\xc4\x01\x00\xa1b\xa1\x00", "nul"),  # behind one in bytes
    ],
)
def test_what_is_not_our_msgpack_is_refused_by_name(data: bytes, reason: str) -> None:
    assert refused_bytes(data) == reason


def test_bytes_may_hold_zeros_and_text_may_not() -> None:
    assert decode(m.Reveal, encode(m.Reveal("0a" * 16, bytes(32)))).secret == bytes(32)
    assert refused(m.VmOffer, wire(OFFER, host="h\0")) == "nul"
    assert refused(m.Unfit, wire(UNFIT, reasons=({"resource": "\0" * 40},))) == "nul"
    assert refused_json(m.VmOffer, to_json(OFFER).replace('"h1"', '"h\\u0000"')) == "nul"
    assert refused_json(m.VmOffer, '{"\\u0000": 1}') == "nul"


def test_keys_given_as_bytes_are_refused() -> None:
    assert refused(m.Reveal, {key.encode(): value for key, value in wire(REVEAL).items()}) == "shape"


def test_depth_is_capped() -> None:
    assert refused_bytes(b"\x91" * (DEPTH_MAX - 1) + b"\x90") == "shape"
    assert refused_bytes(b"\x91" * (DEPTH_MAX + 1) + b"\x01") == "container"
    assert refused_bytes(b"\x91" * 1199 + b"\x01") == "container"
    assert refused_json(m.Reveal, "[" * (DEPTH_MAX + 2) + "]" * (DEPTH_MAX + 2)) == "container"
    assert refused_json(m.Reveal, "[" * 60_000 + "]" * 60_000) == "json"
    assert refused_json(m.Reveal, '{"a":' * 20_000 + "1" + "}" * 20_000) == "json"


def test_items_are_capped() -> None:
    assert refused_bytes(b"\xdd" + ITEMS_MAX.to_bytes(4, "big") + bytes(ITEMS_MAX)) == "shape"
    assert refused_bytes(b"\xdd" + (ITEMS_MAX + 1).to_bytes(4, "big") + bytes(ITEMS_MAX + 1)) == "container"


def test_length_is_capped() -> None:
    assert refused_bytes(bytes(1201), max_bytes=1200) == "length"
    assert refused_bytes(bytes(1200), max_bytes=1200) == "tail"
    assert refused_json(m.Reveal, " " * (BODY_MAX_BYTES + 1)) == "length"
    assert refused_json(m.Reveal, " " * BODY_MAX_BYTES) == "json"


@pytest.mark.parametrize("text", ["", "{", "nul", "\ufeff{}", '{"a":1}x', "\ud800", '"\ud800"', "{'a':1}", "[1,]"])
def test_what_is_not_json_is_refused(text: str) -> None:
    assert refused_json(m.Reveal, text) in {"json", "shape"}


def test_json_is_utf_8_alone() -> None:
    assert refused_json(m.Reveal, to_json(REVEAL).encode("utf-16")) == "json"
    assert refused_json(m.Reveal, b'{"a":"\xff"}') == "json"
    assert refused_json(m.VmOffer, to_json(OFFER).replace("h1", "\\ud800")) in {"json", "shape"}


def test_a_message_of_wrong_types_is_our_bug_and_raises_at_once() -> None:
    with pytest.raises(Exception, match="serializ"):
        encode(m.Reveal("0a" * 16, 7))  # type: ignore[arg-type]
