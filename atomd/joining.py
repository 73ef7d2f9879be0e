"""`atomd join TOKEN`: this machine becomes a host of the token's realm. An installer can do it, as nothing is asked.

The daemons of an unclaimed host wait for an identity and find it by themselves. A host that belonged to a realm before
keeps its old identity in a folder beside the new one, in case that was a mistake.
"""

import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

from matcher.net.redeem import Joined, NobodyAnswers, redeem
from matcher.trust.identity import is_identity, load_identity
from matcher.trust.joining import JoinError
from matcher.trust.peers import save_peers
from matcher.trust.principal import name_problem
from matcher.trust.tokens import BadToken, Token, read_token

RETRY_S = 2.0
TOKEN_MAX_BYTES = 4096


def find_token(given: str | None, file: Path | None) -> str:
    """The token's text: as an argument, in a file, on standard input ("-"), or in ATOMOS_TOKEN, so that it need not
    stand in a list of processes. Raises `JoinError`."""
    if given is not None and file is not None:
        raise JoinError("There are two tokens here: give one, or --token-file.")
    try:
        if given == "-":
            return sys.stdin.read(TOKEN_MAX_BYTES)
        if file is not None:
            return file.read_text()[:TOKEN_MAX_BYTES]
    except (OSError, ValueError) as error:
        raise JoinError(f"The token can't be read: {error}.") from error
    text = given or os.environ.get("ATOMOS_TOKEN", "")
    if not text:
        raise JoinError("There is no token. An admin makes one with: electros realm invite")
    return text


def join(text: str, *, name: str | None, folder: Path, wait_s: float, again: bool) -> str:
    """Join, and a sentence about it. Raises `JoinError`."""
    token = _host_token(text)
    name = name or socket.gethostname().partition(".")[0]
    if problem := name_problem(name):
        raise JoinError(f"{problem} Say another one with --name.")
    aside = _set_aside(folder) if again and is_identity(folder) else None
    if aside is None and is_identity(folder):
        raise JoinError(_belongs_already(folder))
    try:
        joined = _patiently(lambda: redeem(token, name, folder), until_s=time.monotonic() + wait_s)
    except JoinError:
        if aside is not None:
            _bring_back(aside, folder)
        raise
    save_peers(folder, [joined.by])
    identity = load_identity(folder)
    said = f"{identity.principal.name} is a host of realm {identity.realm_name} now, by {joined.by.name}."
    return said if aside is None else f"{said} Its old identity is in {aside}. Now: systemctl restart atomd storaged"


def _host_token(text: str) -> Token:
    try:
        token = read_token(text)
    except BadToken as error:
        raise JoinError(str(error)) from error
    if token.kind != "host":
        raise JoinError("This token is for a person: electros login TOKEN. For a host: electros realm invite")
    return token


def _patiently(do: Callable[[], Joined], *, until_s: float) -> Joined:
    """Again, while nobody answers and there is time: an installer may be earlier than the network."""
    while True:
        try:
            return do()
        except NobodyAnswers:
            if time.monotonic() + RETRY_S > until_s:
                raise
        time.sleep(RETRY_S)


def _belongs_already(folder: Path) -> str:
    try:
        realm = load_identity(folder, allow_expired=True).realm_name
    except Exception:  # whatever is wrong with it, it is there
        realm = "that can't be read"
    return f"This host belongs to realm {realm} already ({folder}). To leave that for the new one: atomd join --again"


def _set_aside(folder: Path) -> Path:
    aside = folder.with_name(f"{folder.name}.{time.strftime('%Y%m%d-%H%M%S')}")
    try:
        folder.rename(aside)
    except OSError as error:
        raise JoinError(f"{folder} can't be set aside: {error.strerror}.") from error
    return aside


def _bring_back(aside: Path, folder: Path) -> None:
    try:
        if folder.exists():
            folder.rmdir()
        aside.rename(folder)
    except OSError as error:
        raise JoinError(f"{aside} could not be brought back to {folder}: {error.strerror}. Do that by hand.") from error
