"""meta.json is read leniently, written strictly, and never trusted."""

import json

import pytest

from matcher.wire.messages import ImageFormat
from specs.ids import UserId, VmId
from storaged.metadata import META_MAX_BYTES, Bad, Metadata, parse_metadata, write_metadata

OF_THE_SEED = b"""{
    size:10, /*In GB, 0.125GB multiples supported*/
    name: dummy_volume, /*Human readable name*/
    bootable: true, /*Is the volume bootable?*/
    private: false, /*Is the volume visible just to the creator or to everyone?*/
    shareable: false,/*The volume can be mounted by multiple VMs at once? Incopatible with bootable*/
    readonly: false, /*Readonly or readwrite?*/
}
"""


def test_the_metadata_of_the_tech_pack_loads_unchanged() -> None:
    assert parse_metadata(OF_THE_SEED) == Metadata(size_mib=10240, name="dummy_volume", bootable=True)


@pytest.mark.parametrize(
    ("text", "size_mib"),
    [("0.125", 128), (".5", 512), ("10", 10240), ("10.", 10240), ("+1.25", 1280), ("1e3", 1024000), ("0x10", 16384)],
)
def test_sizes_are_gb_in_steps_of_an_eighth(text: str, size_mib: int) -> None:
    assert parse_metadata(f"{{size: {text}}}".encode()) == Metadata(size_mib)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "ends too early"),
        ("[]", "one object"),
        ("dummy", "one object"),
        ("{size: 1", "ends too early"),
        ("{size: 1} {", "follows the closing brace"),
        ("{size: 1, size: 2}", '"size" stands twice'),
        ('{size: 1, "si\\u007ae": 2}', '"size" stands twice'),
        ("{size: 1 name: x}", "comma"),
        ("{size: 10GB}", '"10GB" is not a number (line 1)'),
        ("{size: 010}", "not a number"),
        ("{\n\nsize 1}", '":" is missing (line 3)'),
        ("{size: 1 /* no end", "comment is not closed"),
        ('{size: 1, name: "no end}', "not closed on its line"),
        ("{size: 1, #}", "does not belong here"),
        ("{size: 1, : 2}", "field's name is missing"),
        ("{size: }", "value is missing"),
        ("{}", '"size" (in GB) is missing'),
        ("{size: null}", '"size" (in GB) is missing'),
        ("{size: 0}", "more than 0"),
        ("{size: -1}", "more than 0"),
        ("{size: 1e9}", "at most 1048576 GB"),
        ("{size: 8589934592}", "at most 1048576 GB"),  # 8 EiB
        ('{"size": 8589934592}', "at most 1048576 GB"),
        ("{size: 99999999999999999999}", "not a number"),
        ('{"size": 99999999999999999999}', "not a number"),
        ('{"size": 0}', "more than 0"),
        ('{"size": -0.125}', "more than 0"),
        ('{"size": 0.3}', "multiple of 0.125 GB, not 0.3"),
        ('{"size": NaN}', 'not "NaN"'),
        ('{"size": Infinity}', 'not "Infinity"'),
        ('{"size": 1e9999}', "a number of GB"),
        ('{"size": 1, "size": 2}', '"size" stands twice'),
        ("{size: 0.3}", "multiple of 0.125 GB, not 0.3"),
        ("{size: NaN}", 'not "NaN"'),
        ("{size: 1e9999}", "a number of GB"),
        ("{size: '1'}", 'a number of GB, not "1"'),
        ("{size: true}", "a number of GB, not true"),
        ("{size: [1]}", "a number of GB, not a list"),
        ("{size: 1, bootable: 1}", '"bootable" must be true or false, not 1'),
        ("{size: 1, bootable: yes}", 'true or false, not "yes"'),
        ("{size: 1, shareable: true, bootable: true}", "shareable volume can't be bootable"),
        ("{size: 1, private: true}", 'needs an "owner"'),
        ("{size: 1, private: true, owner: root}", "64 hex digits"),
        ("{size: 1, readnoly: true}", 'did you mean "readonly"?'),
        ("{size: 1, Bootable: true}", 'did you mean "bootable"?'),
        ("{size: 1, format: vmdk}", 'raw, qcow2 or folder, not "vmdk"'),
        ('{size: 1, image: "../data.img"}', "plain name of a file"),
        ('{size: 1, image: "/etc/shadow"}', "plain name of a file"),
        ('{size: 1, image: ".hidden"}', "plain name of a file"),
        ('{size: 1, image: ""}', "plain name of a file"),
        ('{size: 1, image: "meta.json"}', "plain name of a file"),
        ('{size: 1, image: "a\\u0000b"}', "plain name of a file"),
        ('{size: 1, image: "a\0b"}', "plain name of a file"),
        ('{"size": 1, "image": "../data.img"}', "plain name of a file"),
        ('{"size": 1, "image": ".."}', "plain name of a file"),
        ("{size: 1}\0", "does not belong here"),
        ('{size: 1, name: "a\\nb"}', "invisible characters"),
        ('{size: 1, name: "\\u202etxt"}', "invisible characters"),
        ('{size: 1, name: "\\ud800"}', "invisible characters"),
        (f"{{size: 1, name: {'x' * 65}}}", "at most 64 characters"),
        ("{size: 1, name: true}", '"name" must be text, not true'),
        ("[" * 60_000, "nested deeper"),
        ('{"a":' * 9 + "1" + "}" * 9, "nested deeper"),
        ('{"shareable": true, "bootable": true, "size": 1}', "shareable volume can't be bootable"),
        ("{a:" * 9 + "1" + "}" * 9, "nested deeper"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(text: str, words: str) -> None:
    metadata = parse_metadata(text.encode())
    assert isinstance(metadata, Bad)
    assert words in metadata.reason
    assert metadata.reason.isprintable()


def test_all_mistakes_are_said_at_once() -> None:
    metadata = parse_metadata(b"{size: 0.3, bootable: 1, format: iso, readonyl: true}")
    assert isinstance(metadata, Bad)
    assert all(
        word in metadata.reason for word in ("0.125", "bootable", "raw, qcow2 or folder", 'did you mean "readonly"')
    )


def test_bytes_that_are_not_text_are_bad() -> None:
    assert parse_metadata(b'{"size": 1, "name": "\xff"}') == Bad("meta.json is not UTF-8 text")


def test_a_meta_json_over_64_kib_is_bad() -> None:
    assert isinstance(parse_metadata(b"{size: 1}" + b" " * META_MAX_BYTES), Bad)


def test_a_field_that_resembles_none_of_ours_is_left_alone() -> None:
    assert parse_metadata(b"{size: 1, creator: {mail: [a, 1, null]}}") == Metadata(1024)


def test_a_name_that_looks_like_a_number_is_a_name() -> None:
    assert parse_metadata(b"{size: 1, name: 2024}") == Metadata(1024, "2024")


def test_escapes_and_quotes_of_json5_are_read() -> None:
    text = rb"""{'size': 1, "name": 'it\'s \u00e9 \x41 \ud83d\ude00', // a comment
    }"""
    assert parse_metadata(text) == Metadata(1024, "it's é A 😀")


def test_a_byte_order_mark_and_windows_lines_are_read() -> None:
    assert parse_metadata(b"\xef\xbb\xbf{\r\n size: 1,\r\n format: QCOW2\r\n}") == Metadata(
        1024, format=ImageFormat.QCOW2
    )


def test_what_is_written_is_strict_json() -> None:
    metadata = Metadata(1280, "säule", private=True, owner=UserId("ab" * 32))
    assert json.loads(write_metadata(metadata)) == {
        "size": 1.25,
        "name": "säule",
        "bootable": False,
        "private": True,
        "shareable": False,
        "readonly": False,
        "format": "raw",
        "image": "data.img",
        "owner": "ab" * 32,
    }


def test_what_it_goes_with_and_was_made_of_is_read_as_it_was_written() -> None:
    full = Metadata(128, "seed", goes_with=VmId("a1" * 16), sha256="b2" * 32)
    assert parse_metadata(write_metadata(full)) == full
    assert b"goes_with" not in write_metadata(Metadata(128))
    for field, value in (("goes_with", "a1"), ("goes_with", 7), ("sha256", "x" * 64), ("sha256", "B2" * 32)):
        bad = parse_metadata(json.dumps({"size": 1, field: value}).encode())
        assert isinstance(bad, Bad)
        assert f'"{field}" must be' in bad.reason
