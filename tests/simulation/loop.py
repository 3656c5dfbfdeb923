"""Virtual time, and processes that can be stopped, frozen or killed at any await.

One event loop runs everything. Its clock jumps to the next timer whenever nothing is
ready, so a minute takes milliseconds and a seed takes the same steps every time. Each
callback belongs to a process, found in its context: a frozen process's callbacks wait, a
killed one's timers never fire, and a process can be made to die just before its n-th
callback, which is between any two awaits. A process whose machine sleeps has a monotonic
clock that stands still meanwhile, as a suspended machine's does: its own timers come so
much later, and what others sent it comes when it wakes.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import heapq
import types
from asyncio import events
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

PROCESS: contextvars.ContextVar[Process | None] = contextvars.ContextVar(
    "process", default=None
)


class Stuck(Exception):
    """Nothing is ready and no timer is set: nothing will ever happen again."""


class Process:
    """One start of a program. `skew` is how far its wall clock is off, in seconds."""

    def __init__(self, loop: SimLoop, name: str, *, skew: float = 0.0) -> None:
        self.loop = loop
        self.name = name
        self.skew = skew
        self.alive = True
        # Since when it sleeps, and for how long it has slept altogether.
        self.asleep_s = 0.0
        self._asleep_since: float | None = None
        self._sleeping: list[_Timer] = []
        self._stopped = False
        self.fault: BaseException | None = None
        self.steps = 0
        self.dies_at = 0
        self.on_death: Callable[[], None] = lambda: None
        self.held: list[asyncio.Handle] = []
        self.tasks: list[asyncio.Task[Any]] = []
        self.context = contextvars.copy_context()
        self.context.run(PROCESS.set, self)

    def clock(self) -> float:
        """Read its wall clock, epoch seconds."""
        return self.loop.wall() + self.skew

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run a coroutine as part of this process."""
        return self.loop.create_task(work, context=self.context)

    def call(self, callback: Callable[..., object], *args: object) -> None:
        """Call something inside this process, in the next round of the loop."""
        self.loop.call_soon(callback, *args, context=self.context)

    @property
    def frozen(self) -> bool:
        """Whether it does nothing just now."""
        return self._stopped or self._asleep_since is not None

    def freeze(self) -> None:
        """SIGSTOP."""
        self._stopped = True

    def thaw(self) -> None:
        """SIGCONT: everything that came meanwhile happens now, in order."""
        self._stopped = False
        self._go_on()

    def suspend(self) -> None:
        """Its machine sleeps: nothing happens, and its monotonic clock stands still."""
        if self.alive and self._asleep_since is None:
            self._asleep_since = self.loop.elapsed()
            self._sleeping = self.loop.timers_of(self)

    def resume(self, *, clock_moved: bool) -> float:
        """Its machine wakes; return for how long the wall clock stood still too.

        A suspended machine's wall clock has moved, a paused virtual machine's has not.
        """
        if self._asleep_since is None:
            return 0.0
        slept = self.loop.elapsed() - self._asleep_since
        self._asleep_since = None
        self.asleep_s += slept
        sleeping, self._sleeping = self._sleeping, []
        self.loop.set_again(sleeping, slept)
        lost = 0.0 if clock_moved else slept
        self.skew -= lost
        self._go_on()
        return lost

    def _go_on(self) -> None:
        if not self.frozen:
            held, self.held = self.held, []
            self.loop.again(held)

    def die_within(self, steps: int) -> None:
        """Be killed before the callback that comes after so many others."""
        self.dies_at = self.steps + max(1, steps)

    def kill(self) -> None:
        """SIGKILL. What it had in memory is gone; its coroutines end without effect."""
        if not self.alive:
            return
        self.alive = False
        self._stopped, self._asleep_since = False, None
        # Its timers lapse, those that slept too.
        self._sleeping = []
        tasks, self.tasks = self.tasks, []
        for task in tasks:
            task.cancel()
        # What waited to run now runs into the cancellation; timers lapse.
        held, self.held = self.held, []
        self.loop.again(held)
        self.on_death()


class _Timer(asyncio.TimerHandle):
    """A timer; `own` where the process that it belongs to has set it itself."""

    __slots__ = ("own",)
    own: Process | None

    def when(self) -> float:
        """Return when it is due, as whoever asks counts time."""
        here = PROCESS.get()
        return self._when - (here.asleep_s if here is not None else 0.0)


class SimLoop(asyncio.BaseEventLoop):
    """An event loop without I/O, threads or waiting."""

    def __init__(self, start: float = 1_700_000_000.0) -> None:
        super().__init__()
        self._now = 0.0
        self._start = start
        self.steps = 0
        self.faults: list[tuple[Process | None, dict[str, Any]]] = []
        self.set_task_factory(_task_of_a_process)
        self.set_exception_handler(self._on_fault)

    def time(self) -> float:
        """Return the monotonic clock of the process that asks."""
        here = PROCESS.get()
        return self._now if here is None else self._now - here.asleep_s

    def elapsed(self) -> float:
        """Return the seconds since the world began, whoever sleeps."""
        return self._now

    def call_at(
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        here = PROCESS.get()
        if here is not None:
            when += here.asleep_s
        timer = _Timer(when, callback, args, self, context)
        timer.own = here if timer._context.get(PROCESS) is here else None
        heapq.heappush(self._scheduled, timer)  # type: ignore[attr-defined]
        timer._scheduled = True
        return timer

    def timers_of(self, process: Process) -> list[_Timer]:
        """Take out what a process has set for itself."""
        taken = [each for each in self._scheduled if each.own is process]  # type: ignore[attr-defined]
        self._scheduled = [  # type: ignore[attr-defined]
            each
            for each in self._scheduled  # type: ignore[attr-defined]
            if each.own is not process
        ]
        heapq.heapify(self._scheduled)  # type: ignore[attr-defined]
        return taken

    def set_again(self, timers: list[_Timer], later_s: float) -> None:
        """Put timers back that had been taken out, so much later."""
        for timer in timers:
            timer._when += later_s  # type: ignore[attr-defined]
            heapq.heappush(self._scheduled, timer)  # type: ignore[attr-defined]

    def wall(self) -> float:
        """Read the true wall clock, epoch seconds."""
        return self._start + self._now

    def step(self, seconds: float) -> None:
        """Put the true wall clock forward (back, below 0), and everybody's with it."""
        self._start += seconds

    def again(self, handles: list[asyncio.Handle]) -> None:
        """Put handles that had been taken out back, as ready."""
        self._ready.extend(handles)  # type: ignore[attr-defined]

    def run(self, *, until: float, done: Callable[[], bool] = lambda: False) -> None:
        """Run until that time, or until `done` says so (asked after every step)."""
        events._set_running_loop(self)
        try:
            while self._now < until and not done():
                self._run_once()
        finally:
            events._set_running_loop(None)

    def drain(self) -> None:
        """Run what is ready, and nothing that is not."""
        events._set_running_loop(self)
        try:
            while self._ready:  # type: ignore[attr-defined]
                self._run_once()
        finally:
            events._set_running_loop(None)

    def _run_once(self) -> None:
        scheduled, ready = self._scheduled, self._ready  # type: ignore[attr-defined]
        if not ready:
            while scheduled and scheduled[0]._cancelled:
                heapq.heappop(scheduled)
            if not scheduled:
                raise Stuck
            self._now = max(self._now, scheduled[0]._when)
        while scheduled and scheduled[0]._when <= self._now:
            timer = heapq.heappop(scheduled)
            timer._scheduled = False
            if not timer._cancelled:
                ready.append(timer)
        for _ in range(len(ready)):
            handle = ready.popleft()
            if handle._cancelled:
                continue
            process = handle._context.get(PROCESS)
            if process is not None:
                if not process.alive:
                    if _has_effects(handle):
                        continue
                elif process.frozen:
                    process.held.append(handle)
                    continue
                else:
                    process.steps += 1
                    if process.steps == process.dies_at:
                        process.kill()
            self.steps += 1
            handle._run()

    def _on_fault(
        self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]
    ) -> None:
        del loop
        handle = context.get("handle")
        if handle is not None:
            process = handle._context.get(PROCESS)
            if process is None or process.alive:
                self.faults.append((process, context))

    def _write_to_self(self) -> None:
        """Nobody sleeps here who could be woken."""

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """A cancelled timer is passed by when its time comes."""


def _has_effects(handle: asyncio.Handle) -> bool:
    """Whether a dead process's callback is its own, and no step of a task that ends."""
    if isinstance(handle, asyncio.TimerHandle):
        return True
    callback = handle._callback  # type: ignore[attr-defined]
    if isinstance(callback, functools.partial):
        callback = callback.func
    if not isinstance(callback, types.FunctionType | types.MethodType):
        return False
    return not callback.__module__.startswith("asyncio")


def _task_of_a_process(
    loop: asyncio.AbstractEventLoop,
    work: Coroutine[Any, Any, Any],
    context: contextvars.Context | None = None,
) -> asyncio.Task[Any]:
    task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, context=context)
    process = (context or contextvars.copy_context()).get(PROCESS)
    if process is not None:
        if not process.alive:
            task.cancel()
        tasks = process.tasks
        tasks.append(task)
        if len(tasks) > 128 and len(tasks) % 64 == 0:
            process.tasks = [one for one in tasks if not one.done()]
    return task
