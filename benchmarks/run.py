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
from .contenders import CONTENDERS, Contender, Verbs
from .places import own_place

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

LOOPS = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """What to do."""

    only: str
    """A pattern of `fnmatch` for the contenders' names."""
    plans: dict[str, measure.Plan]
    """Of the stores themselves, by event loop."""
    rounds: int
    """Of the session middleware; 0 to leave it out."""
    seconds: int
    """Of each contender in each of these rounds."""
    slow_disk: bool

    def wants(self, kind: type[Contender], groups: Sequence[str]) -> bool:
        """Return whether *kind* takes part, if it is in one of *groups*."""
        return kind.group in groups and fnmatchcase(kind.name, self.only)

    def carry_out(self, directory: Path, disk: results.Disk, tell: Callable[[str], None]) -> results.Results:
        """Do it, with all files below *directory*; *tell* hears what is going on."""
        with ExitStack() as stack:
            up, missing = self._start_servers(stack, tell)
            places = {name: server.dsn for name, server in up.items()}
            micro: list[results.Micro] = []
            took_part: list[results.Contender] = []
            for loop, plan in self.plans.items():
                kinds = [kind for kind in CONTENDERS if self.wants(kind, plan.groups)]
                with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
                    rows, entries = runner.run(_micro(plan, kinds, places, missing, directory, loop, tell))
                micro += rows
                took_part += [entry for entry in entries if entry not in took_part]
            through: list[results.EndToEnd] = []
            if self.rounds:
                through, entries = end_to_end.measure(
                    places, missing, directory, rounds=self.rounds, seconds=self.seconds, only=self.only, progress=tell
                )
                took_part += entries
        server_of = {kind.name: kind.server for kind in CONTENDERS}
        return results.Results(
            date=datetime.now(UTC).date().isoformat(),
            # Where the results go changes nothing.
            command=re.sub(r" --(json|output)[ =]\S+", "", shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])),
            machine=machine.describe(directory),
            versions=machine.versions() | {f"{name} server": server.version for name, server in up.items()},
            disk=disk,
            contenders=[
                msgspec.structs.replace(entry, settings=up[server_of[entry.name]].settings)
                if server_of[entry.name] in up
                else entry
                for entry in took_part
            ],
            micro=micro,
            end_to_end=through,
            counted=end_to_end.COUNTED if through else "",
        )

    def _start_servers(
        self, stack: ExitStack, tell: Callable[[str], None]
    ) -> tuple[dict[str, servers.Running], dict[str, str]]:
        """Return those that are up until *stack* is closed, and the reason for each that is missing."""
        groups = {group for plan in self.plans.values() for group in plan.groups}
        wanted = {kind.server for kind in CONTENDERS if self.rounds or self.wants(kind, [*groups])}
        up: dict[str, servers.Running] = {}
        missing: dict[str, str] = {}
        for name, context in (
            ("postgresql", servers.postgresql(slow_disk=self.slow_disk)),
            ("redis", servers.redis(always=False, slow_disk=self.slow_disk)),
            ("redis-always", servers.redis(always=True, slow_disk=self.slow_disk)),
        ):
            if name not in wanted:
                continue
            tell(f"starting {name}")
            try:
                up[name] = stack.enter_context(context)
            except (ImportError, OSError, RuntimeError) as error:
                missing[name] = str(error)
        return up, missing


async def _micro(  # noqa: PLR0913, PLR0917 - runs in a loop of its own, and so is no method
    plan: measure.Plan,
    kinds: Sequence[type[Contender]],
    places: dict[str, str],
    missing: dict[str, str],
    directory: Path,
    loop: str,
    tell: Callable[[str], None],
) -> tuple[list[results.Micro], list[results.Contender]]:
    """Open every contender that can be had, each in a place of its own, then measure them all."""
    stores: dict[Contender, Verbs] = {}
    took_part: list[results.Contender] = []
    async with AsyncExitStack() as stack:
        for kind in kinds:
            skipped = missing.get(kind.server, "")
            if not skipped:
                tell(f"opening {kind.name}")
                try:
                    contender = kind(await own_place(f"{kind.__name__}-{loop}", kind.server, places, directory))
                    stack.push_async_callback(contender.close)
                    stores[contender] = await measure.checked(await contender.open())
                except Exception as error:  # noqa: BLE001 - whatever is amiss with a peer, the report says it
                    skipped = repr(error)
            took_part.append(
                results.Contender(
                    name=kind.name, group=kind.group, part="micro", durability=kind.durability, skipped=skipped
                )
            )
        rows = await measure.measure(plan, stores, loop, tell) if stores else []
    return rows, took_part
