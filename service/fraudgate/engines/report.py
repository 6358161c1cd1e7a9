"""What the fleet tells: which engine is what, how the trial goes, what each tier decides and what that costs.

Made by any thread while the scoring loop counts, so figures may be a batch apart.
"""

from dataclasses import asdict, dataclass
from typing import Any

from fraudgate.engines.fleet import Fleet
from fraudgate.engines.routes import Tier


@dataclass(frozen=True, slots=True)
class EngineState:
    """An engine in use; the names are those of ``fraudgate.v1.EngineState``."""

    model: str
    state: str
    """See ``Fleet.states``."""


@dataclass(frozen=True, slots=True)
class TrialReport:
    """The engine on trial beside the live one; the names are those of ``fraudgate.v1.Trial``."""

    model: str
    share_percent: int
    rows: int
    flips: int
    difference_mean: float
    difference_max: float
    run_ns: int


@dataclass(frozen=True, slots=True)
class TierReport:
    """Rows and times of both tiers; the names are those of ``fraudgate.v1.TierReport``."""

    small_rows: int
    large_rows: int
    pressed_rows: int
    """Within the band, and yet decided by the small engine."""
    large_share: float
    pressed_share: float
    small_run_ns: int
    large_run_ns: int
    small_decision_ns: float
    """The engine's time over the rows that it decided, those under pressure too."""
    large_decision_ns: float

    @classmethod
    def of(cls, tier: Tier) -> "TierReport":
        rows = max(tier.small + tier.large + tier.pressed, 1)
        return cls(
            small_rows=tier.small,
            large_rows=tier.large,
            pressed_rows=tier.pressed,
            large_share=tier.large / rows,
            pressed_share=tier.pressed / rows,
            small_run_ns=tier.small_run_ns,
            large_run_ns=tier.large_run_ns,
            small_decision_ns=tier.small_run_ns / max(tier.small + tier.pressed, 1),
            large_decision_ns=tier.large_run_ns / max(tier.large, 1),
        )


@dataclass(frozen=True, slots=True)
class FleetReport:
    """The names are those of ``fraudgate.v1.FleetReport``."""

    engines: tuple[EngineState, ...]
    """The live one first."""
    rollbacks: int
    shadow_skipped: int
    trial: TrialReport | None
    """None while nothing is on trial."""
    tier: TierReport | None
    """None without a large tier."""

    def as_json(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers, for ``json.dumps``."""
        return asdict(self)

    @classmethod
    def of(cls, fleet: Fleet) -> "FleetReport":
        states = sorted(fleet.states.items(), key=lambda each: each[1] != "live")
        large = fleet.large
        return cls(
            engines=tuple(EngineState(model, state) for model, state in states),
            rollbacks=fleet.rollbacks,
            shadow_skipped=fleet.shadow_skipped,
            trial=trial_report(fleet),
            tier=TierReport.of(large.tier) if large is not None else None,
        )


def trial_report(fleet: Fleet) -> TrialReport | None:
    """How the trial goes; None while nothing is on trial."""
    trial, model = fleet.trial, fleet.state_of_trial().partition(" ")[0]
    if trial is None or not model:
        return None
    return TrialReport(
        model=model,
        share_percent=fleet.share_percent,
        rows=trial.rows,
        flips=trial.flips,
        difference_mean=trial.difference_mean,
        difference_max=trial.difference_max,
        run_ns=int(trial.run_ns),
    )
