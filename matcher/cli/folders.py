"""Where the client keeps things: the XDG folders, one context for each realm.

Which context counts: `--context`, else ATOMOS_CONTEXT, else the one that `electros context use` chose, else "default".
"""

import json
import os
import re
from pathlib import Path
from typing import Any

from matcher.cli.failures import Exit, Failure

CONTEXT = "default"
CHOSEN = ".context"  # the name of the context in use; no context can be called so
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)


def context() -> str:
    """The name of the context that counts. Raises `Failure` where it could be a path, or is none."""
    given = os.environ.get("ATOMOS_CONTEXT", "")
    return checked(given) if given else chosen()


def chosen() -> str:
    """What `electros context use` wrote; a file that can't be read or makes no sense chooses nothing."""
    try:
        name = (config_folder() / CHOSEN).read_text().strip()
    except (OSError, ValueError):
        return CONTEXT
    return name if _NAME.fullmatch(name) else CONTEXT


def checked(name: str) -> str:
    if _NAME.fullmatch(name):
        return name
    helps = "letters, digits, dots, dashes and underscores, a letter or digit first; see: electros context ls"
    raise Failure(Exit.USAGE, f"{name[:70]!r} can't be a context's name", helps=helps)


def config_folder() -> Path:
    """Identities: one folder for each context."""
    return _xdg("XDG_CONFIG_HOME", ".config")


def identity_folder() -> Path:
    return config_folder() / context()


def state_folder() -> Path:
    """What must not be lost: the VMs that were run from here."""
    return _xdg("XDG_STATE_HOME", ".local/state") / context()


def cache_folder() -> Path:
    """What may be lost: the hosts that were heard of."""
    return _xdg("XDG_CACHE_HOME", ".cache") / context()


def data_folder() -> Path:
    """Realms that were created here."""
    return _xdg("XDG_DATA_HOME", ".local/share")


def write_json(path: Path, document: Any) -> None:
    """Whole or not at all, and readable by its owner alone."""
    write_text(path, json.dumps(document))


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    draft.replace(path)


def read_json(path: Path) -> Any:
    """The document, or `None` where there is none that can be read."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def _xdg(variable: str, otherwise: str) -> Path:
    given = os.environ.get(variable, "")
    return (Path(given) if given.startswith("/") else Path.home() / otherwise) / "atomos"
