"""One run from its options to its results: start the servers, let everybody in, measure."""

from __future__ import annotations

import asyncio
import re
import shlex
import sys
from contextlib import AsyncExitStack, ExitStack
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import msgspec
import uvloop

from . import end_to_end, machine, measure, results, servers
from .contenders import CONTENDERS
from .places import own_place

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path

    from .contenders import Contender, Verbs

LOOPS = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """What to do."""

    only: str
    """A pattern of `fnmatch` for the contenders' names."""
    databases: tuple[str, ...] = ()
    """Those of the contenders; if none is given, any."""
    plans: Sequence[measure.Plan]
    """Of the stores themselves."""
    rounds: int
    """Of the session middleware; 0 to leave it out."""
    seconds: int
    """Of each contender in each of these rounds."""
    slow_disk: bool

    def carry_out(self, directory: Path, disk: results.Disk, tell: Callable[[str], None]) -> results.Results:
        """Do it, with all files below *directory*; *tell* hears what is going on."""
        entrants = [kind for kind in end_to_end.ENTRANTS if self.rounds and self._wants(kind)]
        planned = [
            (plan, [kind for kind in CONTENDERS if kind.terms.group in plan.groups and self._wants(kind)])
            for plan in self.plans
        ]
        wanted = {kind.terms.database for kinds in (entrants, *(kinds for _, kinds in planned)) for kind in kinds}
        with ExitStack() as stack:
            up, missing = self._start_servers(wanted, stack, tell)
            micro: list[results.Micro] = []
            took_part: list[tuple[Contender, str, str]] = []  # in which part, or why not
            for plan, kinds in planned:
                with asyncio.Runner(loop_factory=LOOPS[plan.loop]) as runner:
                    rows, skipped = runner.run(_micro(plan, kinds, up, missing, directory, tell))
                micro += rows
                took_part += [(kind, "micro", skipped.get(kind, "")) for kind in kinds]
            through: list[results.EndToEnd] = []
            if entrants:
                through, skipped = end_to_end.measure(
                    entrants, up, missing, directory, rounds=self.rounds, seconds=self.seconds, progress=tell
                )
                took_part += [(kind, end_to_end.PART, skipped.get(kind, "")) for kind in entrants]
        return results.Results(
            date=datetime.now(UTC).date().isoformat(),
            # Where the results go changes nothing.
            command=re.sub(r" --(json|output)[ =]\S+", "", shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])),
            machine=machine.describe(directory),
            versions=machine.versions() | {f"{name} server": server.version for name, server in up.items()},
            disk=disk,
            contenders=[
                results.Contender(
                    name=kind.name,
                    group=kind.terms.group,
                    part=part,
                    durability=kind.durability,
                    settings=up[kind.terms.database].settings if kind.terms.database in up else {},
                    skipped=reason,
                )
                for kind, part, reason in dict.fromkeys(took_part)
            ],
            micro=micro,
            end_to_end=through,
            counted=end_to_end.COUNTED if through else "",
        )

    def _wants(self, kind: Contender) -> bool:
        return fnmatchcase(kind.name, self.only) and (not self.databases or kind.terms.database in self.databases)

    def _start_servers(
        self, wanted: Collection[str], stack: ExitStack, tell: Callable[[str], None]
    ) -> tuple[dict[str, servers.Running], dict[str, str]]:
        """Return those that are up until *stack* is closed, and the reason for each that is missing."""
        up: dict[str, servers.Running] = {}
        missing: dict[str, str] = {}
        for name, start in servers.SERVERS.items():
            if name not in wanted:
                continue
            tell(f"starting {name}")
            try:
                up[name] = stack.enter_context(start(slow_disk=self.slow_disk))
            except (ImportError, OSError, RuntimeError) as error:
                missing[name] = str(error)
        return up, missing


async def _micro(  # noqa: PLR0913, PLR0917 - runs in a loop of its own, and so is no method
    plan: measure.Plan,
    kinds: Sequence[Contender],
    up: Mapping[str, servers.Running],
    missing: Mapping[str, str],
    directory: Path,
    tell: Callable[[str], None],
) -> tuple[list[results.Micro], dict[Contender, str]]:
    """Open each of *kinds* that can be had, in a place of its own, and measure them; say why the others cannot."""
    stores: dict[Contender, Verbs] = {}
    skipped: dict[Contender, str] = {}
    async with AsyncExitStack() as stack:
        for kind in kinds:
            if kind.terms.database in missing:
                skipped[kind] = missing[kind.terms.database]
                continue
            tell(f"opening {kind.name}")
            try:
                place = await own_place(kind, plan.loop, up, directory)
                stores[kind] = await measure.checked(await stack.enter_async_context(kind.open(place)))
            except Exception as error:  # noqa: BLE001 - whatever is amiss with a peer, the report says it
                skipped[kind] = repr(error)
        rows = await measure.measure(plan, stores, tell) if stores else []
    return rows, skipped
