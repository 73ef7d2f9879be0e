"""A tree never shows the files of the machine that reads it, and never raises."""

import os
from pathlib import Path

from atomd.inventory.text import whole
from atomd.inventory.tree import LINKS_MAX, Tree


def test_an_absolute_link_stays_inside_the_root(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/hostname").write_text("recorded\n")
    (tmp_path / "name").symlink_to("/etc/hostname")
    (tmp_path / "up").symlink_to("../../../../../../../../etc/hostname")
    assert (Tree(tmp_path).text("name"), Tree(tmp_path).text("up")) == ("recorded", "recorded")


def test_a_folder_that_links_outside_shows_nothing(tmp_path: Path) -> None:
    (tmp_path / "sys").symlink_to("/proc")
    assert Tree(tmp_path).text("sys/version") is None
    assert Tree(tmp_path).names("sys") == []


def test_links_in_circles_and_long_chains_end(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a/b/b")
    (tmp_path / "l0").write_text("end")
    for number in range(1, LINKS_MAX + 2):
        (tmp_path / f"l{number}").symlink_to(f"l{number - 1}")
    tree = Tree(tmp_path)
    assert (tree.text("a"), tree.text(f"l{LINKS_MAX}"), tree.text(f"l{LINKS_MAX + 1}")) == (None, "end", None)


def test_a_pipe_does_not_hang_the_reader(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert Tree(tmp_path).text("pipe") is None


def test_a_file_is_read_to_its_limit_alone(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"x" * 1000)
    assert Tree(tmp_path).data("big", 10) == b"x" * 10


def test_a_missing_file_and_a_folder_have_no_text(tmp_path: Path) -> None:
    assert (Tree(tmp_path).text("missing"), Tree(tmp_path).text("")) == (None, None)
    assert Tree(tmp_path).names("missing") == []


def test_only_plain_numbers_are_numbers() -> None:
    good = {"7": 7, "-1": -1, "007": 7}
    bad = ["", "-", "0x1", "1 2", "٣", "9" * 21, None]
    assert {text: whole(text) for text in good} == good
    assert [whole(text) for text in bad] == [None] * len(bad)
