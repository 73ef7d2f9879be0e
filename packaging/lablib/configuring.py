"""What a person would set up by hand on real hosts: one realm, an identity for each, two small configuration files."""

from __future__ import annotations

import json
import subprocess

from lablib.plan import ROOT, Host, LabError, Plan

RAM_RESERVE_MIB = 512
POOLS = ["/srv/atomos"]
AUDIT = "/var/lib/atomos/audit.jsonl"  # /var/log is the machine's own

# One process for the whole realm, as `electros realm create` makes it on h1: as many tokens, carried and redeemed one
# by one, would be most of what raising a lab takes.
MAKE_REALM = """\
import json, sys
from pathlib import Path
from matcher.trust.issuing import open_issuer
from matcher.trust.realm import EVERYTHING, create_root, found, make_member
realm, name, first, members = json.load(sys.stdin)
host, address, lib = first
identity = found(
    create_root(Path(realm), name),
    host=host, identity=Path(lib, "identity"), issuer=Path(lib, "issuer"), addresses=[address],
)
issuer = open_issuer(Path(lib, "issuer"), identity)
for kind, member, address, out in members:
    grant = EVERYTHING if kind == "user" else None
    make_member(identity, issuer, kind, member, Path(out), grant=grant, addresses=[address])
"""


def make_realm(plan: Plan) -> None:
    members = []
    first = plan.hosts[0]
    if first.is_unclaimed:
        return
    founder = (first.name, first.address, f"{plan.folder(first)}/lib")
    for host in (host for host in plan.hosts[1:] if not host.is_unclaimed):
        if host.is_client:
            members.append(("user", "lab", host.address, f"{plan.folder(host)}/config/atomos/default"))
        else:
            members.append(("host", host.name, host.address, f"{plan.folder(host)}/lib/identity"))
    made = subprocess.run(
        [ROOT / ".venv/bin/python", "-c", MAKE_REALM],
        input=json.dumps([str(plan.realm), plan.name, founder, members]),
        capture_output=True,
        text=True,
    )
    if made.returncode:
        raise LabError(f"the realm could not be made: {(made.stderr.strip() or 'no reason given').splitlines()[-1]}")


def configure(plan: Plan) -> None:
    for host in plan.workers():
        etc = plan.folder(host) / "etc"
        (etc / "atomd.toml").write_text(_toml(atomd_settings(host)))
        (etc / "storaged.toml").write_text(_toml({"pools": POOLS, "audit": AUDIT}))


def atomd_settings(host: Host) -> dict[str, object]:
    settings: dict[str, object] = {
        "accelerator": "auto",
        "ram_reserve_mib": RAM_RESERVE_MIB,
        "audit": AUDIT,
    }
    if host.inventory_root:
        settings["inventory_root"] = host.inventory_root
    return settings


def _toml(settings: dict[str, object]) -> str:
    # JSON's strings, numbers and flat lists are TOML's as well.
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items())
