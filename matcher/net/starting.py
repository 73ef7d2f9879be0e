"""How a daemon starts: its settings file, checked as a whole, and one sentence for whatever keeps it from running."""

import gc
import logging
import os
import socket
import sys
import tomllib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import trio
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


def run_daemon(
    name: str,
    settings: Path,
    model: type[S],
    serve: Callable[[S], Awaitable[None]],
    expected: tuple[type[Exception], ...],
) -> None:
    """Run `serve` until it ends. An `expected` failure, wherever it happens, is a sentence and exit code 1."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    told: tuple[type[Exception], ...] = (SettingsError, *expected)
    try:
        trio.run(serve, load_settings(settings, model))
    except told as error:
        sys.exit(f"{name}: {error}")
    except BaseExceptionGroup as group:
        sentences, bugs = group.split(told)
        if sentences is None or bugs is not None:
            raise
        sys.exit("\n".join(f"{name}: {error}" for error in _leaves(sentences)))


def make_private(path: Path) -> None:
    """An empty file that its owner alone can read, where there is none; what is written there later inherits that."""
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))


def say_ready(status: str = "") -> None:
    """Tell the service manager that the sockets are open (systemd's sd_notify); nothing where nobody asked. `status` is
    a line for people who ask it."""
    gc.collect()
    gc.freeze()  # what the start has made stays: no later collection has to walk all of it, in the middle of an answer
    path = os.environ.get("NOTIFY_SOCKET", "")
    if path.startswith(("/", "@")):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, suppress(OSError):
            manager.sendto(f"READY=1\nSTATUS={status}".encode(), path.replace("@", "\0", 1))


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for each in group.exceptions:
        if isinstance(each, BaseExceptionGroup):
            yield from _leaves(each)
        else:
            yield each
