"""Whatever lies beneath a pool, a scan ends, finds the good volumes, and reaches nothing outside."""

import os
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from specs.ids import dashed
from storaged.index import Index
from storaged.testing import make_volume, vid_of

OUTSIDE = vid_of(999)
odd_names = st.one_of(
    st.sampled_from(
        ["a", "b", ".snap", "lost+found", "x.elimg", ".elimg", "vid..elimg", "a\nb", " ", "é", "\udcff", "-rf"]
    ),
    st.integers(1, 6).map(lambda n: f"{vid_of(n)}.elimg"),
    st.integers(1, 6).map(lambda n: f"{dashed(vid_of(n)).upper()}.elimg"),
)
contents = st.sampled_from(["file", "folder", "link", "broken link", "loop", "fifo", "volume", "bad", "hard link"])
trees = st.lists(st.tuples(st.lists(odd_names, max_size=3), odd_names, contents), max_size=12)


def plant(pool: Path, outside: Path, where: list[str], name: str, kind: str) -> None:
    """One odd thing in the pool; where something is in the way already, nothing."""
    folder = pool.joinpath(*where)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    match kind:
        case "file":
            path.write_bytes(b"x")
        case "folder":
            path.mkdir()
        case "link":
            path.symlink_to(outside)
        case "broken link":
            path.symlink_to("nowhere")
        case "loop":
            path.symlink_to(pool)
        case "fifo":
            os.mkfifo(path)
        case "volume" | "bad" | "hard link":
            path.mkdir()
            (path / "meta.json").write_bytes(b"{" if kind == "bad" else b"{size: .125}")
            if kind == "hard link":
                os.link(next(outside.glob("*/data.img")), path / "data.img")
            else:
                (path / "data.img").write_bytes(b"x")


@given(trees)
@settings(max_examples=30, deadline=None)
def test_no_tree_breaks_a_scan_or_leads_it_out(tree: list[tuple[list[str], str, str]]) -> None:
    with tempfile.TemporaryDirectory() as root:
        pool, outside = Path(root, "pool"), Path(root, "outside")
        make_volume(pool / "good", vid_of(100))
        make_volume(outside, OUTSIDE)
        for where, name, kind in tree:
            try:
                plant(pool, outside, where, name, kind)
            except OSError:
                continue
        index = Index()
        snapshot = index.scan([pool])
        assert vid_of(100) in snapshot.volumes
        assert OUTSIDE not in {*snapshot.volumes, *snapshot.bad, *snapshot.conflicts}
        for volume in snapshot.volumes.values():
            assert not Path(volume.path).is_symlink()
            assert (Path(volume.path) / volume.image).stat().st_nlink == 1
            assert Path(volume.path).resolve().is_relative_to(pool.resolve())
        kinds = [set(snapshot.volumes), set(snapshot.bad), set(snapshot.conflicts)]
        assert sum(map(len, kinds)) == len(set().union(*kinds))
        assert all(bad.reason and bad.path.isprintable() for bad in (*snapshot.bad.values(), *snapshot.nameless))
        assert index.scan([pool]) == snapshot
