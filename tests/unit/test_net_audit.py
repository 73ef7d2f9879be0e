"""The audit: one line each, whatever it says, whole, and bounded where it costs its sender nothing."""

import json
import multiprocessing
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from matcher.net.audit import LINE_MAX_BYTES, SOURCE_BURST, Audit, line_of

LINES = 300


@given(st.dictionaries(st.sampled_from(["who", "what", "about", "outcome", "detail"]), st.text(max_size=3000)))
def test_any_text_in_any_field_stays_one_line_of_printable_ascii(fields: dict[str, str]) -> None:
    line = line_of({**fields})
    assert line.endswith(b"\n")
    assert all(32 <= byte < 127 for byte in line[:-1])
    assert len(line) <= LINE_MAX_BYTES
    assert json.loads(line).keys() == fields.keys()


def write(path: str, who: str) -> None:
    audit = Audit(Path(path), "h1", file_max_bytes=20_000, files_kept=100)
    for number in range(LINES):
        audit.note(who, "vm.stop", str(number))


def test_two_processes_that_write_and_turn_over_at_once_lose_and_tear_nothing(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=write, args=(str(tmp_path / "audit"), who)) for who in ("a", "b")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    files = [path for path in tmp_path.iterdir() if path.suffix != ".lock"]
    lines = [json.loads(line) for path in files for line in path.read_text().splitlines()]
    assert len(files) > 1
    expected = {(who, str(number)) for who in "ab" for number in range(LINES)}
    assert sorted((line["who"], line["about"]) for line in lines) == sorted(expected)


def test_refusals_of_one_source_are_limited_and_what_is_left_out_is_counted(tmp_path: Path) -> None:
    audit = Audit(tmp_path / "audit", "h1", now_s=lambda: 0.0)
    for _ in range(SOURCE_BURST + 7):
        audit.note("uid 7", "backdoor.open", outcome="denied")
    audit.note("uid 8", "backdoor.open", outcome="denied")
    audit.close()
    lines = [json.loads(line) for line in (tmp_path / "audit").read_text().splitlines()]
    assert sum(line["who"] == "uid 7" for line in lines) == SOURCE_BURST
    assert sum(line["who"] == "uid 8" for line in lines) == 1
    assert [line["left_out"] for line in lines if "left_out" in line] == [7]
