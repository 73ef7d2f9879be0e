"""`electros realm`: who belongs together. Each command is imported when it is called."""

from cyclopts import App

from matcher.cli.lazily import register

app = App(name="realm", help="Create a realm; invite, list and remove its hosts; keep its root.")
COMMANDS = {
    "create": ("founding:create", "Create a realm, with this machine as its first host and you as its first admin."),
    "invite": ("roster:invite", "Print a token with which a new host joins."),
    "status": ("roster:status", "What each host knows of the realm, and what needs an admin's eye."),
    "hosts": ("roster:hosts", "List the realm's hosts: who is a member, until when, and who answers now."),
    "remove": ("roster:remove", "Revoke a host for good."),
    "issuer": ("issuing:app", "Who may invite, revoke and renew: add or remove a host's issuer; needs the root key."),
    "export-root": ("root:export_root", "Take the root key out of this machine, into one encrypted file."),
    "import-root": ("root:import_root", "Bring the root key back, to rotate it or to name issuers."),
    "rotate": ("root:rotate", "Put a new root beside the old one; --finish lets go of the old one."),
}
register(app, COMMANDS)
