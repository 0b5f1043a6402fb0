"""`memtrace vault`: the master keys under which Arc keys are sealed."""

from __future__ import annotations

import sys
from typing import Annotated

from cyclopts import App, Parameter

from memtrace_cli import output
from memtrace_cli.admin import administer
from memtrace_core import Services
from memtrace_sqlite.vault import ForgivingVault

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


@app.command
def reset(
    *, yes: Annotated[bool, Parameter(negative=(), help="Do not ask.")] = False, as_json: Json = False
) -> None:
    """Begin with a new master key when the former is lost: Arc keys that it does not open are dropped, for good.

    Nothing else is lost. Organizations with an Arc must be given its key again.

    Example: memtrace vault reset
    """

    async def work(services: Services) -> int:
        found = await services.resealing.status()
        lost = sum(one.secrets for one in found if one.standing == "unknown")
        if lost and not yes:
            if not sys.stdin.isatty():
                raise output.Misused("dropping Arc keys needs --yes where there is no terminal")
            output.note(f"The master keys at hand do not open {lost} secrets. With the right one nothing is lost:")
            output.note("MEMTRACE_MASTER_KEY_PREVIOUS may name it. This drops them for good.")
            if not output.confirm("Drop them?"):
                raise output.Aborted("nothing was dropped")
        await services.resealing.rewrap()
        return lost

    lost = administer(work, ForgivingVault)
    if as_json:
        output.say_json({"dropped": lost})
        return
    output.say(f"{lost} secrets dropped; all others are sealed under the current master key")
    if lost:
        output.suggest("memtrace org set-arc ORG_ID --api-key -   (for each organization with an Arc)")
