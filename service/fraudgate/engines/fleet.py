"""The engines of a server: which one is live, which one was before it, which one is on trial.

    load ->  checked elsewhere, opened and warmed up on a thread: nothing decides yet
    shadow   scores the same batches, decides nothing
    canary   decides for 5, 25, 50, 100 % of the customers, a gate before each step      -> live, or gone
    live     golden rows ten times a second, failures, scores, and drift of these in the first hour: back to the one
             before it when they leave their bounds
    tier     the large engine beside the live one, golden rows too: dropped while they leave their bounds

Everything here runs on the scoring loop, between two batches: a batch keeps the engines that were there at its take-up.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from fraudgate.clock import Clock
from fraudgate.drift.reference import SCORE, Bins, Reference
from fraudgate.engines.base import Engine
from fraudgate.engines.bounds import BOUNDS, Bounds
from fraudgate.engines.loading import Opened, score_bits
from fraudgate.engines.routes import Canary, Member, Route, Shadow, Tier
from fraudgate.engines.trial import WHOLE_PERCENT, Trial
from fraudgate.errors import EngineRefused
from fraudgate.limits import ENGINE_BUDGET_NS, MILLISECOND_NS, SECOND_NS

STAGES_PERCENT = (5, 25, 50, WHOLE_PERCENT)
PROBATION_NS = 3_600 * SECOND_NS
"""So long after a promotion, drift of the score brings the engine before it back; later the traffic has changed."""
LARGE_SOUND_NS = 10 * SECOND_NS
"""So long a dropped large engine has to be sound before it is asked again: a burst of load may have made it slow."""
SCORES_MIN = 1_000
"""Scores of a trial, from which they can be a reference."""
_SLOWER_MAX = 10
_SLOW_RUNS, _SLOW_NS = 5, SECOND_NS // 10
"""So many slow runs in a row, or at least two that take so long together, speak against an engine."""
_EVENTS = 64


class Gate(NamedTuple):
    """What has to be seen before a canary takes its next step."""

    rows_min: int = 2_000
    ns_min: int = SECOND_NS


GATE = Gate()


@dataclass(slots=True)
class Loaded:
    """An engine that is open, warm and bound, and whose decisions have an edition."""

    opened: Opened
    member: Member
    reference: Reference | None = None
    """What transactions are compared with, where it was published with that."""
    scores: Bins | None = None
    """The reference of its scores: published with it, or those of its trial."""
    _runs_ns: list[int] = field(default_factory=list)
    """The slow runs since the last one that was not."""

    @property
    def engine(self) -> Engine:
        return self.opened.engine

    @property
    def name(self) -> str:
        return self.opened.name

    async def problem(self, clock: Clock) -> str:
        """Score the golden rows: why this engine must go, or empty."""
        started_ns = clock()
        try:
            bits = score_bits(await self.member.inference.infer(self.opened.golden_slot))
        except Exception as failure:  # an engine that raises what it should not must go all the more
            return str(failure) or repr(failure)
        self._runs_ns.append(clock() - started_ns)
        if bits != self.opened.golden_bits:
            return "its golden rows have other scores than when it was loaded"
        return self._slowness()

    def _slowness(self) -> str:
        """Once is the machine's fault, again and again the engine's: the slower, the sooner."""
        bound_ns = min(max(_SLOWER_MAX * self.engine.run_ns, MILLISECOND_NS), ENGINE_BUDGET_NS)
        if self._runs_ns[-1] <= bound_ns:
            self._runs_ns.clear()
        runs, fastest_ns = len(self._runs_ns), min(self._runs_ns, default=0)
        if runs == _SLOW_RUNS or (runs > 1 and sum(self._runs_ns) > _SLOW_NS):
            return f"a run takes {fastest_ns / 1e6:.1f} ms, at most {bound_ns / 1e6:.1f} are allowed"
        return ""


class Large(NamedTuple):
    """The engine of the large tier, and the route that asks it."""

    loaded: Loaded
    tier: Tier


class Event(NamedTuple):
    """Something that happened to an engine."""

    now_ns: int
    model: str
    what: str


@dataclass(slots=True)
class _OnTrial:
    """The engine on trial, the route that tries it and, for a canary, the steps still before it."""

    loaded: Loaded
    route: Canary | Shadow
    steps: list[int]
    gate: Gate
    step_rows: int = 0
    step_ns: int = 0


class Fleet:
    """Changes what is live. ``serve`` is told of every change: the live engine and its routes."""

    def __init__(
        self,
        live: Loaded,
        serve: Callable[[Loaded, tuple[Route, ...]], None],
        clock: Clock,
        tell: Callable[[Event], None],
        bounds: Bounds = BOUNDS,
        large: Large | None = None,
    ) -> None:
        self.live = live
        self.previous: Loaded | None = None
        self.large = large
        self.events: deque[Event] = deque(maxlen=_EVENTS)
        self.rollbacks = 0
        self._serve, self._clock, self._tell, self._bounds = serve, clock, tell, bounds
        self._on_trial: _OnTrial | None = None
        self._live_since_ns = clock()
        self._shadow_skipped = 0
        self._large_sound_since_ns: int | None = None
        self._is_helpless = False  # it has a problem, there is no other engine, and that was said

    def __repr__(self) -> str:
        return f"<Fleet {self.live.name} live, {self.state_of_trial() or 'nothing on trial'}>"

    # -- what an operator asks for -------------------------------------------------------------------------------------

    def shadow(self, loaded: Loaded | None) -> None:
        """Let an engine score every batch and decide nothing; None ends that. Raises EngineRefused."""
        if loaded is None:
            if self._on_trial is not None and isinstance(self._on_trial.route, Shadow):
                self._end_trial("out of the shadow")
            return
        self._refuse_live(loaded)
        self._end_trial("replaced by another")
        route = Shadow(loaded.engine, self._trial_of(loaded), self._clock, self._watch_trial)
        self._on_trial = _OnTrial(loaded, route, [], GATE)
        self._changed(loaded, "in the shadow")

    def promote(self, loaded: Loaded, stages_percent: Sequence[int] = STAGES_PERCENT, gate: Gate = GATE) -> None:
        """Begin to let an engine decide, step by step; the last step is 100 %. Raises EngineRefused."""
        self._refuse_live(loaded)
        steps = list(stages_percent)
        if not steps or steps[-1] != WHOLE_PERCENT or steps != sorted(set(steps)) or steps[0] < 1:
            raise EngineRefused(f"stages must rise from at least 1 to {WHOLE_PERCENT} percent: {steps}")
        self._end_trial("replaced by another")
        route = Canary(loaded.member, self._trial_of(loaded), steps[0], self._clock, self._watch_trial)
        self._on_trial = _OnTrial(loaded, route, steps[1:], gate, 0, self._clock())
        self._changed(loaded, f"decides for {steps[0]} % of the customers")

    def rollback(self, why: str) -> Loaded:
        """End the trial or, without one, go back to the engine that was live before. Raises EngineRefused."""
        if self._on_trial is not None:
            self.rollbacks += 1
            self._end_trial(f"rolled back: {why}")
        elif self.previous is not None:
            self.rollbacks += 1
            bad, self.live, self.previous = self.live, self.previous, None
            self._note(bad, f"rolled back: {why}")
            self._changed(self.live, "live again")
        else:
            raise EngineRefused("nothing is on trial, and no engine was live before this one")
        return self.live

    def close(self) -> None:
        """Let every engine go: nothing is scored any more."""
        self._end_trial("the server ends")
        for loaded in filter(None, (self.live, self.previous, self.large and self.large.loaded)):
            loaded.opened.inference.close()

    # -- what happens by itself ----------------------------------------------------------------------------------------

    async def watch(self, unusable: bool, drift: str = "") -> None:
        """Prove every engine that decides once more.

        ``unusable``: most scores lately were. ``drift``: how those of a live engine on probation have drifted.
        """
        live = self.live
        problem = await live.problem(self._clock) or ("most of its scores are unusable" if unusable else drift)
        if live is self.live:
            if problem and (self.previous is not None or not self._is_helpless):
                self._leave(live, problem)
            self._is_helpless = bool(problem) and live is self.live
        trial = self._on_trial
        if trial is not None and isinstance(trial.route, Canary):
            problem = await trial.loaded.problem(self._clock)
            if problem and trial is self._on_trial:
                self.rollback(problem)
        if self.large is not None:
            await self._watch_large(self.large)

    async def _watch_large(self, large: Large) -> None:
        problem, tier = await large.loaded.problem(self._clock), large.tier
        if problem:
            self._large_sound_since_ns = None
            if not tier.dropped:
                tier.dropped = True
                self._note(large.loaded, f"dropped, the small engine decides alone: {problem}")
        elif tier.dropped:
            now_ns = self._clock()
            self._large_sound_since_ns = since_ns = self._large_sound_since_ns or now_ns
            if now_ns - since_ns >= LARGE_SOUND_NS:
                tier.dropped = False
                self._note(large.loaded, f"has been sound for {LARGE_SOUND_NS // SECOND_NS} s, and is asked again")

    @property
    def on_probation(self) -> bool:
        """The live engine is new, and there is one to go back to."""
        return self.previous is not None and self._clock() - self._live_since_ns < PROBATION_NS

    def _leave(self, live: Loaded, problem: str) -> None:
        if self.previous is None:
            self._note(live, f"has a problem, and there is no engine to go back to: {problem}")
            return
        self._end_trial("the live engine has a problem")
        self.rollback(problem)

    def _watch_trial(self) -> None:
        """After every compared batch: out at the first problem, up when the gate is passed."""
        on_trial = self._on_trial
        if on_trial is None:
            return
        problem = on_trial.route.trial.problem()
        if problem:
            self.rollback(problem)
        elif isinstance(on_trial.route, Canary) and self._gate_passed(on_trial):
            self._step(on_trial, on_trial.route)

    def _gate_passed(self, on_trial: _OnTrial) -> bool:
        rows = on_trial.route.trial.rows - on_trial.step_rows
        return rows >= on_trial.gate.rows_min and self._clock() - on_trial.step_ns >= on_trial.gate.ns_min

    def _step(self, on_trial: _OnTrial, canary: Canary) -> None:
        if on_trial.steps:
            canary.share_percent = on_trial.steps.pop(0)
            on_trial.step_rows, on_trial.step_ns = canary.trial.rows, self._clock()
            self._note(on_trial.loaded, f"decides for {canary.share_percent} % of the customers")
            return
        self._on_trial = None
        self.previous, self.live = self.live, on_trial.loaded
        self._live_since_ns = self._clock()
        if self.live.scores is None and len(canary.trial.scores) >= SCORES_MIN:
            self.live.scores = Bins.of(SCORE, canary.trial.scores)
        self._changed(self.live, "live")

    # -- the small parts -----------------------------------------------------------------------------------------------

    def state_of(self, name: str) -> str:
        """See ``states``; a canary with its share, as "canary 25 %"; empty for an engine that is none of these."""
        state = self.states.get(name, "")
        return f"canary {self.share_percent} %" if state == "canary" else state

    @property
    def states(self) -> dict[str, str]:
        """live, canary, shadow, previous, tier or dropped, by name; the first of these of an engine that is several."""
        large, previous, on_trial = self.large, self.previous, self._on_trial  # another thread may ask
        states = {}
        if large is not None:
            states[large.loaded.name] = "dropped" if large.tier.dropped else "tier"
        if previous is not None:
            states[previous.name] = "previous"
        if on_trial is not None:
            states[on_trial.loaded.name] = "canary" if isinstance(on_trial.route, Canary) else "shadow"
        states[self.live.name] = "live"
        return states

    @property
    def shadow_skipped(self) -> int:
        """Batches that engines in the shadow could not keep up with."""
        on_trial = self._on_trial
        route = on_trial.route if on_trial is not None else None
        return self._shadow_skipped + (route.skipped if isinstance(route, Shadow) else 0)

    @property
    def trial(self) -> Trial | None:
        """The counts of the engine on trial."""
        on_trial = self._on_trial
        return on_trial.route.trial if on_trial is not None else None

    @property
    def share_percent(self) -> int:
        """Of the customers, whom the engine on trial decides for."""
        on_trial = self._on_trial
        route = on_trial.route if on_trial is not None else None
        return route.share_percent if isinstance(route, Canary) else 0

    def state_of_trial(self) -> str:
        """The engine on trial and how far it is, or empty."""
        on_trial = self._on_trial
        return f"{on_trial.loaded.name} {self.state_of(on_trial.loaded.name)}" if on_trial is not None else ""

    def _trial_of(self, loaded: Loaded) -> Trial:
        return Trial(loaded.member.thresholds, self.live.member.thresholds, self._bounds)

    def _refuse_live(self, loaded: Loaded) -> None:
        if loaded.name == self.live.name:
            raise EngineRefused(f"{loaded.name} is live already")

    def _end_trial(self, what: str) -> None:
        if self._on_trial is not None:
            on_trial, self._on_trial = self._on_trial, None
            if isinstance(on_trial.route, Shadow):
                self._shadow_skipped += on_trial.route.skipped
                on_trial.route.close()
            self._changed(on_trial.loaded, what)

    def _changed(self, loaded: Loaded, what: str) -> None:
        # The tier comes last: an engine on trial is compared with the live one, and its score may be in the band too.
        trial: tuple[Route, ...] = (self._on_trial.route,) if self._on_trial is not None else ()
        tier: tuple[Route, ...] = (self.large.tier,) if self.large is not None else ()
        self._serve(self.live, trial + tier)
        self._note(loaded, what)

    def _note(self, loaded: Loaded, what: str) -> None:
        event = Event(self._clock(), loaded.name, what)
        self.events.append(event)
        self._tell(event)
