"""A daemon's settings file: TOML, checked as a whole, every mistake in one sentence."""

import tomllib
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

S = TypeVar("S", bound=BaseModel)


class SettingsError(Exception):
    """The file can't be used: which key, and why, for the sysadmin."""


def load_settings(path: Path, model: type[S]) -> S:
    """The settings in `path`; the defaults where there is no such file. Raises `SettingsError`."""
    try:
        return model.model_validate(tomllib.loads(path.read_text()) if path.exists() else {})
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise SettingsError(f"{path}: {problems}") from error
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path}: {error}") from error
