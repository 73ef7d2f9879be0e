"""Whatever stands in a meta.json, reading it gives metadata or a sentence."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from matcher.wire.messages import ImageFormat
from specs.ids import UserId
from storaged.lenient import NotJson, Value, _plain, _Reader, read
from storaged.metadata import Bad, Metadata, parse_metadata, write_metadata

names = st.text(max_size=64).filter(str.isprintable)
owners = st.none() | st.text("0123456789abcdef", min_size=64, max_size=64).map(UserId)
images = st.sampled_from(["data.img", "disk.qcow2", "größe.raw", "a b"])
good = (
    st.builds(
        Metadata,
        size_mib=st.integers(1, 2**23).map(lambda eighths: eighths * 128),
        name=names,
        bootable=st.booleans(),
        private=st.booleans(),
        shareable=st.booleans(),
        readonly=st.booleans(),
        format=st.sampled_from(ImageFormat),
        image=images,
        owner=owners,
    )
    .filter(lambda m: not (m.bootable and m.shareable) and not (m.private and m.owner is None))
    .filter(lambda m: not (m.shareable and m.format is ImageFormat.QCOW2 and not m.readonly))
    .filter(lambda m: m.shareable or m.format is not ImageFormat.FOLDER)
)

scraps = st.sampled_from(
    [
        *"{}[]:,'\"\\\n \x00é\ud7ff",
        "/*",
        "*/",
        "//",
        "\\u12",
        "1e9",
        "10",
        "size",
        "name",
        "private",
        "owner",
        "true",
        "null",
    ]
)
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**62), 2**62)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(good)
def test_what_is_written_reads_back_the_same(metadata: Metadata) -> None:
    assert parse_metadata(write_metadata(metadata)) == metadata


@given(st.binary(max_size=200) | st.lists(scraps, max_size=40).map(lambda parts: "".join(parts).encode()))
@settings(max_examples=300)
def test_any_bytes_give_metadata_or_one_printable_sentence(data: bytes) -> None:
    result = parse_metadata(data)
    assert isinstance(result, Metadata) or result.reason.isprintable()


@given(st.dictionaries(st.sampled_from(["size", "name", "bootable", "format", "image", "owner", "x"]), plain))
def test_any_json_object_gives_metadata_or_one_printable_sentence(fields: dict[str, object]) -> None:
    result = parse_metadata(json.dumps(fields).encode())
    assert isinstance(result, Metadata) or result.reason.isprintable()


@given(good, st.data())
def test_a_torn_file_never_reads_as_something_else(metadata: Metadata, data: st.DataObject) -> None:
    whole = write_metadata(metadata)
    kept = data.draw(st.integers(0, len(whole) - 3))
    assert isinstance(parse_metadata(whole[:kept]), Bad)


@given(plain)
def test_strict_json_means_the_same_to_the_lenient_reader(value: Value) -> None:
    try:
        assert read(json.dumps(value)) == value
    except NotJson as problem:
        assert "deeper" in str(problem) or "not a number" in str(problem)  # noqa: PT017 - longer than ours may be


@given(
    st.one_of(st.text(), st.lists(scraps).map("".join), plain.map(json.dumps), plain.map(lambda v: json.dumps(v)[:-1]))
)
def test_where_pythons_parser_has_the_first_word_ours_would_say_the_same(text: str) -> None:
    value = _plain(text)
    if value is not None:
        assert repr(_Reader(text).whole()) == repr(value)


@given(good)
def test_what_we_write_needs_no_reader_of_ours(metadata: Metadata) -> None:
    text = write_metadata(metadata).decode()
    assert _plain(text) is not None or "\\" in text
