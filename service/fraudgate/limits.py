"""Every limit of the service, in one place; their relations are checked when this module is imported.

Units stand last in each name. Times are integer nanoseconds.
"""

MICROSECOND_NS = 1_000
MILLISECOND_NS = 1_000_000
SECOND_NS = 1_000_000_000
DAY_SECONDS = 86_400

# The batch: one engine call, one RecordBatch.
BATCH_ROWS_MAX = 32
BATCHES_IN_FLIGHT_MAX = 2
SLABS = BATCHES_IN_FLIGHT_MAX
QUEUE_ROWS_MAX = 1_024

# The latency budget and what it is made of.
BUDGET_NS = 50 * MILLISECOND_NS
GATE_NS = 5 * MILLISECOND_NS
STORE_TIMEOUT_NS = 5 * MILLISECOND_NS
ENGINE_BUDGET_NS = 10 * MILLISECOND_NS
GUARD_BUDGET_NS = 5 * MILLISECOND_NS
RUNNING_BATCH_NS = STORE_TIMEOUT_NS + ENGINE_BUDGET_NS + GUARD_BUDGET_NS
INLINE_ENGINE_NS_MAX = 500 * MICROSECOND_NS

# Threads of the native front end where the configuration names none. More would wait for the scoring loop.
IO_THREADS_MAX = 3

# One transaction.
ID_BYTES_MAX = 64
ATTRIBUTES_MAX = 64
AMOUNT_MINOR_MAX = 10**12
EVENT_TIME_NS_MIN = 946_684_800 * SECOND_NS  # 2000-01-01T00:00:00Z
EVENT_TIME_FUTURE_NS_MAX = 3_600 * SECOND_NS
LATENESS_SECONDS_MAX = DAY_SECONDS

# One message, one call.
MESSAGE_BYTES_MAX = 1 << 20
SCORE_BATCH_ROWS_MAX = 512
STREAM_UNANSWERED_MAX = 256
CALLERS_MAX = 64

# What is remembered.
IDEMPOTENCY_ENTRIES_MAX = 2_000_000
IDEMPOTENCY_LIFETIME_NS = 3_600 * SECOND_NS
OUTCOME_INDEX_ENTRIES_MAX = 2_000_000

# Drain.
DRAIN_NS_MAX = 10 * SECOND_NS

_RELATIONS = {
    "the budget holds the gate, a running batch and one batch of its own": BUDGET_NS
    >= GATE_NS + RUNNING_BATCH_NS + STORE_TIMEOUT_NS + ENGINE_BUDGET_NS + GUARD_BUDGET_NS,
    "the queue holds whole batches": QUEUE_ROWS_MAX % BATCH_ROWS_MAX == 0,
    "a ScoreBatch fits in the queue": SCORE_BATCH_ROWS_MAX <= QUEUE_ROWS_MAX,
    "a stream's backlog fits in the queue": STREAM_UNANSWERED_MAX <= QUEUE_ROWS_MAX,
    "an inline engine stays under the loop's stall bound": INLINE_ENGINE_NS_MAX < MILLISECOND_NS,
}
for _relation, _holds in _RELATIONS.items():
    assert _holds, f"limits.py: this no longer holds: {_relation}"
