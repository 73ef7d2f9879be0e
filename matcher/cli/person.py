"""Who is at the keyboard where a command runs as root: what is theirs is kept in their home, and belongs to them."""

import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from matcher.cli import folders


@dataclass(frozen=True, slots=True)
class Person:
    """`ids` are user and group to become for their files; `None`: stay who we are."""

    name: str
    config: Path
    data: Path
    ids: tuple[int, int] | None = None

    @contextmanager
    def acting(self) -> Iterator[None]:
        """As that person: what is written is theirs, and nothing is written that they could not write themselves."""
        if self.ids is None:
            yield
            return
        before = os.geteuid(), os.getegid()
        os.setegid(self.ids[1])
        os.seteuid(self.ids[0])
        try:
            yield
        finally:
            os.seteuid(before[0])
            os.setegid(before[1])


def person() -> Person:
    """Whoever called sudo, unless XDG folders are named; else whoever we are."""
    name = os.environ.get("USER") or os.environ.get("LOGNAME") or "admin"
    own = Person(name, folders.config_folder(), folders.data_folder())
    if os.geteuid() != 0 or any(os.environ.get(f"XDG_{kind}_HOME") for kind in ("CONFIG", "DATA")):
        return own
    try:
        caller = pwd.getpwnam(os.environ.get("SUDO_USER", ""))
    except (KeyError, ValueError):
        return own
    home = Path(caller.pw_dir)
    if caller.pw_uid == 0 or not home.is_dir():
        return own
    config, data = home / ".config" / "atomos", home / ".local" / "share" / "atomos"
    return Person(caller.pw_name, config, data, (caller.pw_uid, caller.pw_gid))
