"""The ladder as it is, watched: what it decides without the store says so, and its rungs climb back."""

from fraudgate.breaker import Breaker
from fraudgate.features.schema import FeatureSchema
from fraudgate.features.store import FeatureStore, Gathered, Unapplied
from fraudgate.ladder import Ladder, LadderSettings
from fraudgate.latency.recorder import Counters
from fraudgate.limits import SECOND_NS
from fraudgate.simulation.faults import Kind
from fraudgate.simulation.ports import World
from fraudgate.transaction import Columns

AILMENTS: dict[str, tuple[Kind, ...]] = {
    "store": ("store_slow", "store_failure", "stall"),
    "engine": ("engine_slow", "engine_failure", "engine_unusable", "stall"),
    "rules": (),
}
"""What opens a dependency's breaker."""
SETTINGS = LadderSettings()
"""Those of a service that configures none."""
CLIMB_NS_MAX = 2 * SETTINGS.breaker.wait_ns_max + SECOND_NS
"""A whole wait that began when the fault ended, another for a probe that was lost, and the good runs."""


class WatchedLadder(Ladder):
    """With breakers, of which none stays open for long over a sound dependency."""

    def __init__(self, schema: FeatureSchema, counters: Counters, world: World) -> None:
        super().__init__(schema, counters, world.clock, SETTINGS, tell=self._tell)
        self._world = world
        self.changes = 0
        """Of all breakers."""

    def _tell(self, _change: str) -> None:
        self.changes += 1

    def gather(self, store: FeatureStore, columns: Columns, rows: list[int], now_ns: int) -> Gathered | None:
        gathered = super().gather(store, columns, rows, now_ns)
        if isinstance(gathered, Unapplied):
            self._world.invariants.defaulted(columns, rows)
        if not (self.store.ticket and self.engine.ticket and self.rules.ticket):
            for breaker in (self.store, self.engine, self.rules):
                self._must_climb(breaker, now_ns)
        return gathered

    def _must_climb(self, breaker: Breaker, now_ns: int) -> None:
        sound_ns = now_ns - self._world.weather.last_ns(AILMENTS[breaker.name])
        if not breaker.ticket and sound_ns > CLIMB_NS_MAX:
            self._world.invariants.fail("rungs climb back", f"{breaker!r}, sound for {sound_ns / SECOND_NS:.1f} s")
