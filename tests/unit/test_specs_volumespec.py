"""A volumespec, and what is said about one that is wrong."""

import json
from typing import Any

import pytest

from specs.problems import SpecError
from specs.volumespec import VOLUMES_MAX, is_volumespec, parse_volumespec

A = "4f3c2d1e0b9a48f7a6d5c4b3a2918070"
DASHED = "4f3c2d1e-0b9a-48f7-a6d5-c4b3a2918070"
B = "0" * 32


def told(document: Any) -> list[tuple[str, str, str]]:
    with pytest.raises(SpecError) as caught:
        parse_volumespec(document if isinstance(document, str | bytes) else json.dumps(document))
    assert str(caught.value).startswith("the volumespec has ")
    return [(problem.path, problem.problem, problem.hint) for problem in caught.value.problems]


def test_vids_keep_their_order_and_lose_their_dashes_and_case() -> None:
    assert parse_volumespec(f'[{{vid: \'{B}\'}}, {{"vid": "{DASHED.upper()}"}},] // two') == (B, A)


def test_a_vid_of_33_digits_is_told_with_its_count() -> None:
    assert told([{"vid": "f" * 32 + "0"}, {"vid": A}, {"vid": "f" * 31}]) == [
        ("0.vid", f'has 33 hex digits: "{"f" * 32}0"', "a vid has 32"),
        ("2.vid", f'has 31 hex digits: "{"f" * 31}"', "a vid has 32"),
    ]


@pytest.mark.parametrize(
    ("vid", "problem", "hint"),
    [
        ("", "has 0 hex digits", "a vid has 32"),
        ("g" + "0" * 31, '"g" is no hex digit', "0-9 and a-f"),
        ("../../etc/passwd", '"." is no hex digit', "0-9 and a-f"),
        (f"{A[:31]}\0", "is no hex digit", "0-9 and a-f"),
        ("x" * 60_000, '"x" is no hex digit', "0-9 and a-f"),
        ("\uff10" * 32, "is no hex digit", "0-9 and a-f"),
        (f"{A}.elimg", "more than the id", f'write "{A}"'),
        (f" {A}", "more than the id", f'write "{A}"'),
        (f"{A}\n", "more than the id", f'write "{A}"'),
        (f"{A[:16]}-{A[16:]}", "its dashes are out of place", "8, 12, 16 and 20"),
        (5, "is 5, not text", "in quotes"),
        (True, "is true, not text", "in quotes"),
        (None, "is null", "leave it out"),
        ([], "is a list, not text", "in quotes"),
    ],
)
def test_what_is_no_vid_is_told_why(vid: Any, problem: str, hint: str) -> None:
    (found,) = told([{"vid": vid}])
    assert found[0] == "0.vid"
    assert problem in found[1]
    assert hint in found[2]


def test_a_volume_named_twice_is_told_however_it_is_spelled() -> None:
    assert told([{"vid": A}, {"vid": B}, {"vid": DASHED.upper()}]) == [
        ("2.vid", "is the volume of entry 0 again", "name each volume once")
    ]


def test_all_problems_come_at_once() -> None:
    document = f'[{{"vid": "{A}", "size": 3}}, "{B}", {{}}, {{"id": "{B}"}}, {{"vid": "1", "vid": "2"}}, null, [1]]'
    assert [(path, problem) for path, problem, _ in told(document)] == [
        ("0.size", "is not a field of a volumespec"),
        ("1", f'is "{B}", not an object'),
        ("2.vid", "is missing"),
        ("3.id", "is not a field of a volumespec"),
        ("3.vid", "is missing"),
        ("4.vid", "is written 2 times"),
        ("5", "is null"),
        ("6", "is a list, not an object"),
    ]
    assert told([B])[0][2] == f'write {{"vid": "{B}"}}'


@pytest.mark.parametrize(
    ("document", "problem", "hint"),
    [
        ({"vid": A}, "not a list", "put the object into a list"),
        ({"slots": 1, "ramsize": 512}, "not a list", "this is a specfile"),
        (A, "not a list", "as in"),
        ([], "the list is empty", "give no volumespec"),
        ([{"vid": f"{n:032x}"} for n in range(VOLUMES_MAX + 1)], "the list has 65 volumes; the most is 64", ""),
    ],
)
def test_a_document_of_another_shape_is_told(document: Any, problem: str, hint: str) -> None:
    ((path, found, cure),) = told(json.dumps(document))
    assert path == ""
    assert problem in found
    assert hint in cure


def test_the_most_volumes_are_accepted() -> None:
    assert len(parse_volumespec(json.dumps([{"vid": f"{n:032x}"} for n in range(VOLUMES_MAX)]))) == VOLUMES_MAX


def test_a_list_is_meant_as_a_volumespec_and_an_object_is_not() -> None:
    assert is_volumespec("// volumes\n[]")
    assert not is_volumespec("{slots: 1}")
