"""Text to plain values: what is refused, in which words, before a slow or recursive parser sees it."""

import sys

import pytest

from specs.document import DEPTH_MAX, TEXT_MAX_BYTES, VALUES_MAX, read_document
from specs.problems import Problem, SpecError, join, show


def refusal(text: str | bytes) -> Problem:
    with pytest.raises(SpecError) as caught:
        read_document(text, what="specfile")
    assert len(caught.value.problems) == 1
    return caught.value.problems[0]


def test_json5_reads_comments_single_quotes_trailing_commas_hex_and_bare_names() -> None:
    text = "{ // line\n slots: 0x10, /* [ { \" ' */ 'a': [+1, .5,], \"b\": 'it\\\n is', }"
    assert read_document(text, what="").value == {"slots": 16, "a": [1, 0.5], "b": "it is"}


def test_plain_json_and_json_with_comments_never_import_json5(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "json5", None)
    assert read_document('{"a": 1, /* [ */ "b": "// no comment"} // end', what="").value == {
        "a": 1,
        "b": "// no comment",
    }
    with pytest.raises(ImportError):
        read_document("{a: 1}", what="")


def test_a_text_over_the_size_limit_is_refused_by_its_bytes() -> None:
    assert read_document('"' + "a" * (TEXT_MAX_BYTES - 2) + '"', what="").value
    assert "65,537 bytes long" in refusal('"' + "a" * (TEXT_MAX_BYTES - 1) + '"').problem
    assert "bytes long" in refusal('"' + "é" * (TEXT_MAX_BYTES // 2) + '"').problem


def test_depth_is_refused_before_any_parser_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_document("[" * DEPTH_MAX + "]" * DEPTH_MAX, what="").value
    monkeypatch.setattr("specs.document._parse", None)
    for opener in ("[", "{a:", '{"a":'):
        assert "nested deeper than 16" in refusal(opener * 10_000).problem


def test_more_values_than_any_document_has_are_refused_before_any_parser_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("specs.document._parse", None)
    assert "more than 4,096 values" in refusal("[" + "1," * VALUES_MAX + "1]").problem


def test_brackets_inside_texts_and_comments_count_for_nothing() -> None:
    text = '["[[[[[[[[[[[[[[[[[[[[\\"[", \'{{{{{{{{{{{{{{{{{{{{{{"\', /* [[[[[[[[[[[[[[[[[[[[[ */ 1] // ]]]]'
    assert read_document(text, what="").value == ['[[[[[[[[[[[[[[[[[[[["[', '{{{{{{{{{{{{{{{{{{{{{{"', 1]


@pytest.mark.parametrize(
    ("text", "path", "problem"),
    [
        ("", "", "the document is empty"),
        (" \n\t ", "", "the document is empty"),
        ('{"a": 1', "line 1, column 1", '"{" is never closed'),
        ("{\n  a: [1}\n", "line 2, column 8", '"}" can\'t close the "[" of line 2, column 6'),
        ("}", "line 1, column 1", '"}" closes nothing'),
        ('{"a": "b\n"}', "line 1, column 7", "the text is not closed on its line"),
        ("{} /* open", "line 1, column 4", "the comment is never closed"),
        ("{“slots”: 1}", "line 1, column 2", "“ is a typographic quote"),
        ("{a: True}", "line 1, column 5", "True is Python"),
        ("{a: None}", "line 1, column 6", "None is Python"),
        ("{a: 1 b: 2}", "line 1, column 7", '"b" is not expected here'),
        ("{a: 1} b", "line 1, column 8", '"b" is not expected here'),
        ("{a = 1}", "line 1, column 4", '"=" is not expected here'),
        ("# no\n{}", "line 1, column 1", '"#" is not expected here'),
        ("{a: 01}", "line 1, column 6", '"1" is not expected here'),
        ("{a:\n\n}", "line 3, column 1", '"}" is not expected here'),
        ("// only a comment", "line 1, column 18", "the text ends too early"),
        ("{a: " + "9" * 5000 + "}", "", f"the number {'9' * 47}… has more than 32 digits"),
        ('{"a": ' + "9" * 5000 + "}", "", f"the number {'9' * 47}… has more than 32 digits"),
        ("{a: '\\u12'}", "line 1, column 10", '"\'" is not expected here'),
        ('{"a": "\ud800"}', "line 1, column 8", "is not UTF-8 text"),
        (b'{"a":\n "\xff"}', "line 2", "is not UTF-8 text: byte 0xff"),
        (b"\xff\xfe{\x00}\x00", "", "the document is UTF-16 text"),
        ("\x00", "line 1, column 1", '"\\u0000" is not expected here'),
    ],
)
def test_what_cant_be_read_is_told_with_its_place(text: str | bytes, path: str, problem: str) -> None:
    told = refusal(text)
    assert (told.path, told.problem) == (path, problem)


def test_a_byte_order_mark_of_utf_8_is_harmless() -> None:
    assert read_document(b"\xef\xbb\xbf{}", what="").value == {}
    assert read_document("\ufeff{}", what="").value == {}


def test_repeated_keys_nulls_infinities_and_half_characters_are_noted_with_their_paths_and_reading_goes_on() -> None:
    text = '{"a": {"b": 1, "b": 2, "b": 3}, "c": [null, NaN, -Infinity, 1e999, "\\ud800"], "a": 1}'
    document = read_document(text, what="")
    assert {problem.path: problem.problem for problem in document.problems} == {
        "a": "is written 2 times",
        "a.b": "is written 3 times",
        "c.0": "is null",
        "c.1": "is not a finite number",
        "c.2": "is not a finite number",
        "c.3": "is not a finite number",
        "c.4": "holds half of a character (a lone surrogate)",
    }
    assert document.value["a"] == {"b": 1}


def test_a_name_with_half_a_character_is_told_where_it_stands_and_not_read() -> None:
    document = read_document('{"a": [{"b\\ud800": 1, "c": 2}], "\\udfffd": 1, "\\udfffd": 2}', what="")
    said = "has a field whose name holds half of a character (a lone surrogate)"
    assert [(problem.path, problem.problem) for problem in document.problems] == [("", said), ("a.0", said)]
    assert document.value == {"a": [{"c": 2}]}


def test_json5_keys_repeat_in_whatever_way_they_are_written() -> None:
    document = read_document("{a: 1, 'a': 2, \"\\u0061\": 3}", what="")
    assert [(problem.path, problem.problem) for problem in document.problems] == [("a", "is written 3 times")]


def test_problems_come_in_the_order_of_their_paths_with_numbers_as_numbers() -> None:
    error = SpecError([Problem("pci.10", "x"), Problem("pci.9", "y"), Problem("", "z"), Problem("cpu", "v")])
    assert [problem.path for problem in error.problems] == ["", "cpu", "pci.9", "pci.10"]


def test_an_error_reads_as_lines_for_a_person() -> None:
    error = SpecError([Problem("slots", "is 0; the least is 1", "1 or more"), Problem("", "the document is odd")])
    assert str(error) == (
        "the specfile has 2 problems\n  the document is odd\n  slots: is 0; the least is 1\n    hint: 1 or more"
    )
    assert str(SpecError([Problem("0.vid", "is odd")], what="volumespec")) == (
        "the volumespec has a problem\n  0.vid: is odd"
    )


def test_a_person_is_told_fifty_problems_and_how_many_more_there_are() -> None:
    error = SpecError(Problem(str(number), "is odd") for number in range(60))
    assert len(error.problems) == 60
    assert str(error).endswith("\n  49: is odd\n  … and 10 more")


def test_values_and_keys_in_messages_are_short_and_safe_for_a_terminal() -> None:
    assert show("a" * 100) == '"' + "a" * 46 + "…"
    assert show("\x1b[2J\x9b") == '"\\u001b[2J\\u009b"'
    assert join("pci", 0, "a.b", "\x1b") == 'pci.0."a.b"."\\u001b"'
