"""What a person would set up by hand on real hosts: one realm, an identity for each, two small configuration files."""

from __future__ import annotations

import json
import subprocess

from lablib.plan import ROOT, Host, LabError, Plan

RAM_RESERVE_MIB = 512
POOLS = ["/srv/atomos"]

# One process for the whole realm: as many starts of `electros realm issue` would be most of what raising a lab takes.
MAKE_REALM = """\
import json, sys
from pathlib import Path
from matcher.trust.realm import create_realm, issue
realm, name, members = json.load(sys.stdin)
create_realm(Path(realm), name)
for kind, member, out in members:
    issue(Path(realm), kind, member, Path(out))
"""


def make_realm(plan: Plan) -> None:
    members = []
    for host in plan.hosts:
        if host.is_client:
            members.append(("user", "lab", f"{plan.folder(host)}/config/atomos/default"))
        else:
            members.append(("host", host.name, f"{plan.folder(host)}/etc/identity"))
    made = subprocess.run(
        [ROOT / ".venv/bin/python", "-c", MAKE_REALM],
        input=json.dumps([str(plan.realm), plan.name, members]),
        capture_output=True,
        text=True,
    )
    if made.returncode:
        raise LabError(f"the realm could not be made: {(made.stderr.strip() or 'no reason given').splitlines()[-1]}")


def configure(plan: Plan) -> None:
    for host in plan.workers():
        etc = plan.folder(host) / "etc"
        (etc / "atomd.toml").write_text(_toml(atomd_settings(host)))
        (etc / "storaged.toml").write_text(_toml({"pools": POOLS}))


def atomd_settings(host: Host) -> dict[str, object]:
    settings: dict[str, object] = {
        "accelerator": "auto",
        "ram_reserve_mib": RAM_RESERVE_MIB,
    }
    if host.inventory_root:
        settings["inventory_root"] = host.inventory_root
    return settings


def _toml(settings: dict[str, object]) -> str:
    # JSON's strings, numbers and flat lists are TOML's as well.
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items())
