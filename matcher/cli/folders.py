"""Where the client keeps things: the XDG folders, one context for each realm."""

import json
import os
from pathlib import Path
from typing import Any

CONTEXT = "default"


def config_folder() -> Path:
    """Identities: one folder for each context."""
    return _xdg("XDG_CONFIG_HOME", ".config")


def identity_folder() -> Path:
    return config_folder() / os.environ.get("ATOMOS_CONTEXT", CONTEXT)


def state_folder() -> Path:
    """What must not be lost: the VMs that were run from here."""
    return _xdg("XDG_STATE_HOME", ".local/state") / os.environ.get("ATOMOS_CONTEXT", CONTEXT)


def cache_folder() -> Path:
    """What may be lost: the hosts that were heard of."""
    return _xdg("XDG_CACHE_HOME", ".cache") / os.environ.get("ATOMOS_CONTEXT", CONTEXT)


def data_folder() -> Path:
    """Realms that were created here."""
    return _xdg("XDG_DATA_HOME", ".local/share")


def write_json(path: Path, document: Any) -> None:
    """Whole or not at all, and readable by its owner alone."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(document, file)
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
