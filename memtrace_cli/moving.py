"""`memtrace org export` and `memtrace org import`: an organization out of Memtrace, and into it."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import IO, Annotated

from cyclopts import Parameter

from memtrace_cli import output
from memtrace_cli.admin import administer
from memtrace_cli.export_file import appending, lines_of, opened, told_of
from memtrace_cli.progress import Show, progress
from memtrace_cli.times import typed_bound
from memtrace_core import Services
from memtrace_core.export_lines import encode_line
from memtrace_core.exporting import Behind
from memtrace_core.importing import Imported
from memtrace_core.model import Memory

MOST_TOLD = 20

Write = Callable[[str], object]


def export(
    org_id: str,
    /,
    *,
    since: str | None = None,
    until: str | None = None,
    instance: str | None = None,
    append: Path | None = None,
) -> None:
    """Print all that an organization has, one JSON object a line: its memories, the oldest first, agents, sessions.

    Servers go on working; what they store after its beginning is not in it. The last line tells that it is whole.

    Example: memtrace org export org_a1b2c3 > acme.jsonl

    Example: memtrace org export org_a1b2c3 --append acme.jsonl

    Parameters
    ----------
    org_id
        The organization.
    since
        Only memories from this time on: 30m, 24h, 7d, 2w (ago), or an ISO 8601 time.
    until
        Only memories before this time, in the same form.
    instance
        Id of a former Arc instance of the organization, to read that one instead of the present one.
    append
        File to write to. One that an export has left unfinished is finished; one that is complete is brought up to
        now.
    """

    async def work(services: Services) -> None:
        now = services.clock.now()
        begin, end = typed_bound(since, "--since", now), typed_bound(until, "--until", now)

        async def write_all(write: Write, behind: Behind | None) -> None:
            with progress("Exporting", shown=append is not None or not sys.stdout.isatty()) as show:
                portions = services.exporting.export(
                    org_id,
                    instance_id=instance,
                    since=begin,
                    until=end,
                    behind=behind,
                    on_failure=lambda why: output.note(f"memtrace: {output.one_line(why)}; trying again"),
                )
                first: datetime | None = None
                count = behind.memories if behind else 0
                async for portion in portions:
                    with told_of(append or "standard output"):
                        write("".join(map(encode_line, portion)))
                    if portion and isinstance(newest := portion[-1], Memory):
                        first = first or newest.time
                        count += len(portion)
                        show((newest.time - first) / max(now - first, now.resolution), count)

        if append is None:
            await services.tenants.get_org(org_id)
            output.expect_json()
            try:
                await write_all(sys.stdout.write, None)
                with told_of("standard output"):
                    sys.stdout.flush()
            except BaseException:
                output.note(f"not complete; finish it with `memtrace org export {org_id} --append FILE`")
                raise
            return
        with appending(append, org_id) as (stream, behind):
            if behind is not None and since is not None:
                raise output.Misused(f"--since does not go with {append}, which was begun already")
            await write_all(lambda text: stream.write(text.encode()), behind)

    administer(work)


def import_(
    org_id: str,
    file: Path | None = None,
    /,
    *,
    as_json: Annotated[bool, Parameter(name="--json", negative=(), help="Print JSON.")] = False,
) -> int:
    """Store what `memtrace org export` has printed, of whatever organization, with the ids and times it has.

    What is there already stays as it is, so the same file can be imported again, and an interrupted import too. It
    ends with 1 if a line was not taken or the file is not complete; what is whole is stored all the same.

    Example: memtrace org import org_a1b2c3 acme.jsonl

    Example: memtrace org import org_a1b2c3 < acme.jsonl

    Parameters
    ----------
    org_id
        The organization.
    file
        The file; standard input if none is given.
    """
    told = 0

    def tell(number: int, why: str) -> None:
        nonlocal told
        told += 1
        if told <= MOST_TOLD:
            output.note(f"memtrace: line {number}: {output.one_line(why)}")

    async def work(services: Services, stream: IO[bytes]) -> Imported:
        with progress("Importing") as show:
            lines = _Counted(stream)
            return await services.importing.run(
                org_id,
                lines,
                on_trouble=tell,
                on_note=lambda text: output.note(f"memtrace: {output.one_line(text)}"),
                on_progress=lambda so_far: lines.show(show, so_far),
            )

    if file is None:
        imported = administer(lambda services: work(services, sys.stdin.buffer))
    else:
        with opened(file, "rb") as stream:
            imported = administer(lambda services: work(services, stream))
    if told > MOST_TOLD:
        output.note(f"memtrace: {told - MOST_TOLD} more lines were not taken")
    if not imported.complete:
        output.note("memtrace: the file is not a complete export; what is whole in it was imported")
    if as_json:
        output.say_json(imported)
    else:
        output.say(f"{output.shown_memories(imported.stored)} imported, {imported.present} there already")
        if imported.forgotten:
            output.say(f"{output.shown_memories(imported.forgotten)} left out: forgotten in this organization")
        output.say(f"{imported.agents} agents and {imported.sessions} sessions registered")
    return output.DONE if imported.whole else output.FAILED


class _Counted:
    """The lines of a stream, and which share of it they are."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._read = 0
        try:
            found = os.fstat(stream.fileno())
            self._size = found.st_size if stat.S_ISREG(found.st_mode) else 0
        except OSError:  # no file at all
            self._size = 0

    def __iter__(self) -> Iterator[bytes]:
        for line in lines_of(self._stream):
            self._read += len(line)
            yield line

    def show(self, show: Show, so_far: Imported) -> None:
        show(min(1.0, self._read / self._size) if self._size else None, so_far.stored + so_far.present)
