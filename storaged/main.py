"""The `storaged` command."""

import sys
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from cyclopts import App

from storaged.config import PATH, Config

ANSWER_S = 10.0
SHARE_S = 60.0  # it looks through all pools, and waits for a disk

if TYPE_CHECKING:
    from matcher.wire.messages import Message

M = TypeVar("M", bound="Message")

app = App(name="storaged", help="The storage daemon of AtomOS.", version=lambda: version("atomos"))
pool = App(name="pool", help="Which pools this host serves, alone or with others.")
app.command(pool)


@app.default
def run(*, config: Path = PATH) -> None:
    """Serve this host's volumes until told to stop.

    Parameters
    ----------
    config
        The settings file; it may be missing.
    """
    from matcher.net.starting import run_daemon
    from matcher.trust.identity import IdentityError
    from storaged.daemon import run as serve
    from storaged.export.key import KeyUnusable
    from storaged.journal import JournalError

    run_daemon("storaged", config, Config, serve, (IdentityError, JournalError, KeyUnusable))


@app.command
def volumes(*, config: Path = PATH) -> None:
    """What is in this host's pools: the volumes, and what is wrong with the others.

    Parameters
    ----------
    config
        The settings file; it may be missing.
    """
    from matcher.net.starting import SettingsError, load_settings
    from matcher.trust.identity import IdentityError, load_identity
    from specs.ids import HostId, dashed
    from storaged.catalogue import complaints
    from storaged.index import Index
    from storaged.measuring import used
    from storaged.pool import MEMORY, Pools
    from storaged.volume import how_full, shown

    host_id = None
    try:
        settings = load_settings(config, Config)
        with suppress(IdentityError):  # a host that is in no realm can still be looked at
            host_id = HostId(load_identity(settings.identity).principal.id)
        pools = Pools(host_id, settings.state / MEMORY, only_looks=True)
        snapshot = Index(pools).scan(pool.named() for pool in settings.pools)
    except SettingsError as error:
        sys.exit(f"storaged: {error}")
    for volume in snapshot.volumes.values():
        traits = [trait for trait in ("bootable", "shareable", "readonly", "private") if getattr(volume, trait)]
        taken_mib = used(volume)
        traits += [] if taken_mib is None else [f"{taken_mib} MiB used"]
        traits += [f"goes with VM {dashed(volume.goes_with)}"] if volume.goes_with else []
        print(dashed(volume.vid), f"{volume.size_mib} MiB", volume.format, volume.name, *traits, sep="  ")  # noqa: T201
    withheld = {pool.withheld for pool in snapshot.pools}
    for bad in snapshot.bad.values():
        if bad.vid is not None and bad.reason in withheld:
            print(dashed(bad.vid), bad.path, "not given for writing", sep="  ")  # noqa: T201
    for use in snapshot.pools:
        full = how_full(use.promised_mib, use.limit_mib, use.free_mib)
        print(f"pool {shown(use.path)}", f"{use.volumes} volumes", full, sep="  ")  # noqa: T201
    for complaint in complaints(snapshot):
        print(f"storaged: {complaint}", file=sys.stderr)  # noqa: T201


@app.command
def adopt(path: Path, *, config: Path = PATH) -> None:
    """Make a pool this host's own on your word: no other host uses it, and it is what should lie at its path.

    Parameters
    ----------
    path
        The pool, as in the settings.
    config
        The settings file; it may be missing.
    """
    import os

    from matcher.net.audit import Audit
    from matcher.net.starting import SettingsError, load_settings
    from matcher.trust.identity import IdentityError, load_identity
    from specs.ids import HostId
    from storaged.beneath import Unusable
    from storaged.pool import MEMORY
    from storaged.pool import adopt as adopt_pool

    try:
        settings = load_settings(config, Config)
        pool = next((each.named() for each in settings.pools if each.path == path), None)
        if pool is None:
            sys.exit(f"storaged: {str(path)!r} is no pool of this host; its pools are in {config}")
        host = load_identity(settings.identity).principal
        mark = adopt_pool(pool, HostId(host.id), settings.state / MEMORY)
    except (SettingsError, IdentityError, Unusable) as error:
        sys.exit(f"storaged: {error}")
    except OSError as error:
        sys.exit(f"storaged: {path}: {error.strerror}")
    Audit(settings.audit, host.name).note(f"sysadmin uid {os.getuid()}", "pool.adopt", str(path), detail=mark.pool_id)
    print(f"{path} is pool {mark.pool_id} of this host")  # noqa: T201


@app.command
def forget(vid: str, *, config: Path = PATH) -> None:
    """Free a volume on your word: no other host uses it, and its content is right as it is.

    Parameters
    ----------
    vid
        The volume's UUID.
    config
        The settings file; it may be missing.
    """
    import trio

    from matcher.net import local
    from matcher.net.starting import SettingsError, load_settings
    from matcher.wire.messages import Refused
    from matcher.wire.volumes import Forget, Forgotten
    from specs.ids import parse_id

    identifier = parse_id(vid)
    if identifier is None:
        sys.exit(f"storaged: {vid[:48]!r} is no volume's UUID: 32 hex digits, with dashes or without")
    try:
        socket = load_settings(config, Config).socket
        answer = trio.run(lambda: local.ask(socket, Forget(identifier), Forgotten, timeout_s=ANSWER_S))
    except (SettingsError, local.LocalError) as error:
        sys.exit(f"storaged: {error}")
    if isinstance(answer, Refused):
        sys.exit("\n".join(f"storaged: {reason.resource}: {reason.has}" for reason in answer.reasons))
    print(answer.said)  # noqa: T201


@app.command
def withdraw(*, config: Path = PATH) -> None:
    """End what the kernel's own target serves of this host's volumes, while storaged is stopped. Those targets would
    outlive it, and the package that brought it.

    Parameters
    ----------
    config
        The settings file; it may be missing.
    """
    import socket

    from matcher.net.starting import SettingsError, load_settings
    from storaged.export.configfs import Configfs

    try:
        with socket.socket(socket.AF_UNIX) as asking:
            if asking.connect_ex(str(load_settings(config, Config).socket)) == 0:
                sys.exit("storaged: it runs, and would serve them anew; systemctl stop storaged first")
        ended = Configfs("").withdraw()
    except SettingsError as error:
        sys.exit(f"storaged: {error}")
    except OSError as error:
        sys.exit(f"storaged: the kernel keeps {error.filename}: {error.strerror}")
    print(f"{ended} volumes were served by the kernel, and are no more" if ended else "the kernel serves none")  # noqa: T201


@pool.command
def ls(*, config: Path = PATH) -> None:
    """The pools of this host's storaged, how full they are, and why nothing is given of some for writing.

    Parameters
    ----------
    config
        The settings file; it may be missing.
    """
    from matcher.wire.volumes import AskPools, PoolRows
    from storaged.volume import how_full

    for row in _told(AskPools(), PoolRows, config).pools:
        kind = "shared" if row.shared else "alone"
        why = row.why or "given for writing"
        full = how_full(row.promised_mib, row.limit_mib, row.free_mib)
        print(row.path, row.pool_id or "-", kind, f"{row.volumes} volumes", full, why, sep="  ")  # noqa: T201


@pool.command
def share(path: Path, *, config: Path = PATH) -> None:
    """Say that several servers serve a pool from now on: all that see its filesystem and have it in their settings.
    Each needs sanlock. Nothing of it may be attached meanwhile.

    Parameters
    ----------
    path
        The pool, as in the settings.
    config
        The settings file; it may be missing.
    """
    _say_shared(path, config, shared=True)


@pool.command
def unshare(path: Path, *, config: Path = PATH) -> None:
    """Say that a pool is this server's alone from now on, on your word: no other server uses it any more.

    Parameters
    ----------
    path
        The pool, as in the settings.
    config
        The settings file; it may be missing.
    """
    _say_shared(path, config, shared=False)


def _say_shared(path: Path, config: Path, *, shared: bool) -> None:
    import os

    from matcher.wire.realm import Done
    from matcher.wire.volumes import SharePool

    print(_told(SharePool(os.path.realpath(path), shared), Done, config).said)  # noqa: T201


def _told(question: "Message", answer: type[M], config: Path) -> M:
    """The daemon's answer; a refusal ends the command."""
    import trio

    from matcher.net import local
    from matcher.net.starting import SettingsError, load_settings
    from matcher.wire.messages import Refused

    try:
        socket = load_settings(config, Config).socket
        said = trio.run(lambda: local.ask(socket, question, answer, timeout_s=SHARE_S))
    except (SettingsError, local.LocalError) as error:
        sys.exit(f"storaged: {error}")
    if isinstance(said, Refused):
        hints = (f"\nstoraged: {reason.hint}" if reason.hint else "" for reason in said.reasons)
        sys.exit(
            "\n".join(
                f"storaged: {each.resource}: {each.has}{hint}" for each, hint in zip(said.reasons, hints, strict=True)
            )
        )
    return said


def main() -> None:
    app()
