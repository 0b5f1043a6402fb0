"""`memtrace vault`: the master keys under which Arc keys are sealed."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter

from memtrace_cli import output
from memtrace_cli.admin import administer

app = App(name="vault")

Json = Annotated[bool, Parameter(name="--json", negative=(), help="Print JSON.")]


@app.command
def status(*, as_json: Json = False) -> None:
    """Show how many secrets are sealed under which master key. A key's id is a fingerprint, and no secret.

    Example: memtrace vault status
    """
    found = administer(lambda services: services.resealing.status())
    if as_json:
        output.say_json(found)
        return
    output.say_table(
        ("KEY ID", "MASTER KEY", "SECRETS"), [(one.key_id, one.standing, str(one.secrets)) for one in found]
    )
    if any(one.secrets and one.standing == "previous" for one in found):
        output.suggest("memtrace vault rewrap")


@app.command
def rewrap(*, as_json: Json = False) -> None:
    """Seal every secret under the current master key, while servers go on working. All of them or none.

    MEMTRACE_MASTER_KEY is the current key; MEMTRACE_MASTER_KEY_PREVIOUS names those before it.

    Example: MEMTRACE_MASTER_KEY=new MEMTRACE_MASTER_KEY_PREVIOUS=old memtrace vault rewrap
    """
    changed = administer(lambda services: services.resealing.rewrap())
    if as_json:
        output.say_json({"rewrapped": changed})
        return
    output.say(f"{changed} secrets sealed anew under the current master key")
    output.suggest("memtrace vault status")
