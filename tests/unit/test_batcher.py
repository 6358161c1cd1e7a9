"""The boundary cases as a table. Gate 10, at most 3 entries a batch, at most 7 waiting."""

import pytest

from fraudgate.batching.batcher import Batcher, Policy
from fraudgate.limits import BATCH_ROWS_MAX, GATE_NS, QUEUE_ROWS_MAX

GATE, ROWS, QUEUE = 10, 3, 7

CASES = {
    "the gate starts at the first entry, not at the second and not before": """
        poll 90  -> nothing
        add a 100
        add b 109
        poll 109 -> nothing
        poll 110 -> a b closed at 110
        poll 110 -> nothing
    """,
    "an entry one nanosecond before the gate joins": """
        add a 100
        add b 109
        poll 110 -> a b closed at 110
    """,
    "an entry at the gate opens the next batch, and its own gate": """
        add a 100
        add b 110
        poll 110 -> a closed at 110
        poll 119 -> nothing
        poll 120 -> b closed at 120
    """,
    "an entry at the gate opens the next batch although the poll is late": """
        add a 100
        add b 110
        add c 119
        poll 500 -> a closed at 110
        poll 500 -> b c closed at 120
        poll 500 -> nothing
    """,
    "a late poll does not move a gate": """
        add a 100
        poll 999 -> a closed at 110
        add b 999
        poll 1008 -> nothing
        poll 1009 -> b closed at 1009
    """,
    "a full batch closes at its last entry, without waiting for the gate": """
        add a 100
        add b 101
        add c 102
        poll 102 -> a b c closed at 102
        deadline none
    """,
    "full and gate in one instant: the entry at the gate is too late to fill the batch": """
        add a 100
        add b 105
        add c 110
        poll 110 -> a b closed at 110
        poll 110 -> nothing
        poll 120 -> c closed at 120
    """,
    "full one nanosecond before the gate": """
        add a 100
        add b 105
        add c 109
        poll 109 -> a b c closed at 109
    """,
    "a burst in one instant fills batch after batch, in order": """
        add a 100
        add b 100
        add c 100
        add d 100
        add e 100
        add f 100
        add g 100
        poll 100 -> a b c closed at 100
        poll 100 -> d e f closed at 100
        poll 100 -> nothing
        poll 110 -> g closed at 110
    """,
    "the entry after a full batch starts a gate of its own": """
        add a 100
        add b 101
        add c 102
        add d 103
        poll 112 -> a b c closed at 102
        poll 112 -> nothing
        poll 113 -> d closed at 113
    """,
    "a stamp that runs backwards is raised: order decides": """
        add a 100
        add b 90
        poll 109 -> nothing
        poll 110 -> a b closed at 110
    """,
    "a raised stamp fills a batch at the stamp it was raised to": """
        add a 100
        add b 104
        add c 50
        poll 104 -> a b c closed at 104
    """,
    "a raised stamp starts the gate at the stamp it was raised to": """
        add a 100
        add b 115
        add c 101
        poll 115 -> a closed at 110
        poll 124 -> nothing
        poll 125 -> b c closed at 125
    """,
    "nothing waits, nothing is due": """
        deadline none
        poll 100 -> nothing
        deadline none
    """,
    "the deadline is the gate of the open batch, at once when a batch is closed": """
        add a 100
        deadline 110
        add b 105
        deadline 110
        add c 106
        deadline 0
        add d 107
        deadline 0
        poll 107 -> a b c closed at 106
        deadline 117
    """,
    "an entry too many is refused and counted, and moves nothing": """
        add a 100
        add b 100
        add c 100
        add d 100
        add e 100
        add f 100
        add g 100
        refuse h 109
        refuse i 111
        poll 109 -> a b c closed at 100
        add j 109
        poll 109 -> d e f closed at 100
        poll 110 -> g j closed at 110
        drops 2
    """,
    "close_open draws the boundary now, before the gate": """
        add a 100
        close 104
        poll 104 -> a closed at 104
        deadline none
    """,
    "close_open with nothing open makes no batch": """
        close 104
        poll 104 -> nothing
        add a 105
        add b 105
        add c 105
        close 106
        poll 106 -> a b c closed at 105
        poll 106 -> nothing
    """,
    "close_open does not go back behind the last entry": """
        add a 100
        close 90
        poll 100 -> a closed at 100
    """,
    "under the fixed gate an idle engine waits": """
        add a 100
        idle 105 -> nothing
        poll 110 -> a closed at 110
    """,
}

EAGER_CASES = {
    "an idle engine takes what is there": """
        add a 100
        poll 101 -> nothing
        idle 101 -> a closed at 101 idle 101
        idle 102 -> nothing
    """,
    "a busy engine leaves the batch open, to its gate": """
        add a 100
        poll 109 -> nothing
        add b 109
        idle 110 -> a b closed at 110
    """,
    "an entry in the idle instant, but after it, opens the next batch": """
        add a 100
        idle 105 -> a closed at 105 idle 105
        add b 105
        idle 105 -> b closed at 105 idle 105
    """,
    "an entry stamped before the idle instant but added after it is raised to it": """
        add a 100
        idle 105 -> a closed at 105 idle 105
        add b 103
        poll 114 -> nothing
        poll 115 -> b closed at 115
    """,
    "the idle instant is not before the last entry": """
        add a 100
        idle 90 -> a closed at 100 idle 100
    """,
    "closed batches go first: the open one stays open": """
        add a 100
        add b 100
        add c 100
        add d 101
        idle 102 -> a b c closed at 100
        poll 102 -> nothing
        idle 103 -> d closed at 103 idle 103
    """,
}


def play(batcher: Batcher[str], script: str) -> None:
    for line in filter(None, map(str.strip, script.splitlines())):
        told, _, expected = line.partition("->")
        assert answer(batcher, *told.split()) == expected.strip(), line
        batcher.check()


def answer(batcher: Batcher[str], what: str, *words: str) -> str:
    match what:
        case "add" | "refuse":
            assert batcher.add(words[0], int(words[1])) == (what == "add")
        case "close":
            batcher.close_open(int(words[0]))
        case "deadline":
            assert str(batcher.next_deadline_ns()).lower() == words[0]
        case "drops":
            assert batcher.drops == {"queue_full": int(words[0])}
        case "poll" | "idle":
            batch = batcher.poll(int(words[0]), idle=what == "idle")
            if batch is None:
                return "nothing"
            idle = f" idle {batch.idle_ns}" if batch.idle_ns else ""
            return f"{' '.join(batch.entries)} closed at {batch.closed_ns}{idle}"
    return ""


@pytest.mark.parametrize("case", CASES)
def test_fixed(case: str) -> None:
    play(Batcher(GATE, ROWS, QUEUE), CASES[case])


@pytest.mark.parametrize("case", EAGER_CASES)
def test_eager(case: str) -> None:
    play(Batcher(GATE, ROWS, QUEUE, "eager"), EAGER_CASES[case])


def test_the_sizes_of_the_service() -> None:
    batcher: Batcher[int] = Batcher()
    assert (batcher.gate_ns, batcher.batch_rows_max, batcher.queue_rows_max) == (5_000_000, 32, 1_024)
    for entry in range(QUEUE_ROWS_MAX):
        assert batcher.add(entry, 7)
    assert not batcher.add(QUEUE_ROWS_MAX, 7)
    batches = [batcher.poll(7) for _ in range(QUEUE_ROWS_MAX // BATCH_ROWS_MAX)]
    assert [entry for batch in batches if batch for entry in batch.entries] == list(range(QUEUE_ROWS_MAX))
    assert batcher.poll(7 + GATE_NS) is None
    assert batcher.rows == 0


@pytest.mark.parametrize(
    ("gate_ns", "batch_rows_max", "queue_rows_max"), [(0, 32, 1_024), (-1, 32, 1_024), (1, 0, 1_024), (1, 32, 31)]
)
def test_sizes_that_make_no_batcher(gate_ns: int, batch_rows_max: int, queue_rows_max: int) -> None:
    with pytest.raises(ValueError, match="gate_ns >= 1"):
        Batcher(gate_ns, batch_rows_max, queue_rows_max)


@pytest.mark.parametrize("policy", ["fixed", "eager"])
def test_repr_is_for_people(policy: Policy) -> None:
    batcher: Batcher[str] = Batcher(GATE, ROWS, QUEUE, policy)
    for entry in "abcd":
        batcher.add(entry, 100)
    assert repr(batcher) == f"<Batcher {policy} [1 open, 1 closed, 4 rows]>"
