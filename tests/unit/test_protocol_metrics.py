"""The three metrics and the protocol's choice of rows, against naive oracles and scikit-learn where that is."""

import numpy as np
import pytest

from fraudgate.demo.data import DAY_NS, find_benchmark, read_benchmark
from fraudgate.quality import auc_roc, average_precision, card_precision, protocol_rows


def draw(seed: int, rows: int = 300, levels: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores and labels; ``levels`` > 0 makes ties."""
    random = np.random.default_rng(seed)
    labels = random.random(rows) < 0.2
    scores = random.normal(labels * 0.8, 1)
    return (np.round(scores * levels) / levels if levels else scores), labels


CASES = [(seed, levels) for seed in range(5) for levels in (0, 1, 4)]


def naive_auc(scores: np.ndarray, labels: np.ndarray) -> float:
    frauds, genuine = scores[labels], scores[~labels]
    wins = [(fraud > other) + 0.5 * (fraud == other) for fraud in frauds for other in genuine]
    return float(np.mean(wins))


def naive_average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    total, recall_before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        taken = scores >= threshold
        recall = labels[taken].sum() / labels.sum()
        total += (recall - recall_before) * labels[taken].mean()
        recall_before = recall
    return total


@pytest.mark.parametrize(("seed", "levels"), CASES)
def test_auc_against_every_pair(seed: int, levels: int) -> None:
    scores, labels = draw(seed, levels=levels)
    assert auc_roc(scores, labels) == pytest.approx(naive_auc(scores, labels), abs=1e-12)


@pytest.mark.parametrize(("seed", "levels"), CASES)
def test_average_precision_against_every_threshold(seed: int, levels: int) -> None:
    scores, labels = draw(seed, levels=levels)
    assert average_precision(scores, labels) == pytest.approx(naive_average_precision(scores, labels), abs=1e-12)


@pytest.mark.parametrize(("seed", "levels"), CASES)
def test_both_against_scikit_learn(seed: int, levels: int) -> None:
    sklearn_metrics = pytest.importorskip("sklearn.metrics", reason="the [train] extra is not installed")
    scores, labels = draw(seed, levels=levels)
    assert auc_roc(scores, labels) == pytest.approx(sklearn_metrics.roc_auc_score(labels, scores), abs=1e-12)
    expected = sklearn_metrics.average_precision_score(labels, scores)
    assert average_precision(scores, labels) == pytest.approx(expected, abs=1e-12)


def test_known_values() -> None:
    scores, labels = np.array([0.9, 0.8, 0.7, 0.6]), np.array([1, 0, 1, 0])
    assert auc_roc(scores, labels) == 0.75
    assert average_precision(scores, labels) == pytest.approx((1 + 2 / 3) / 2)
    assert auc_roc(np.zeros(4), labels) == 0.5
    assert average_precision(np.zeros(4), labels) == 0.5


def test_undefined_metrics_are_refused() -> None:
    with pytest.raises(ValueError, match="both classes"):
        auc_roc(np.zeros(3), np.ones(3, bool))
    with pytest.raises(ValueError, match="at least one fraud"):
        average_precision(np.zeros(3), np.zeros(3, bool))
    with pytest.raises(ValueError, match="finite"):
        auc_roc(np.array([0.1, np.nan]), np.array([True, False]))


def naive_card_precision(
    scores: np.ndarray, labels: np.ndarray, customers: np.ndarray, days: np.ndarray, top: int
) -> float:
    caught: set[object] = set()
    precisions = []
    for day in sorted(set(days)):
        cards: dict[object, tuple[float, bool]] = {}
        for score, label, customer, on in zip(scores, labels, customers, days, strict=True):
            if on == day and customer not in caught:
                best, fraud = cards.get(customer, (-np.inf, False))
                cards[customer] = max(best, score), fraud or bool(label)
        first = sorted(cards, key=lambda card: (-cards[card][0], card))[:top]
        found = {card for card in first if cards[card][1]}
        caught |= found
        precisions.append(len(found) / top)
    return float(np.mean(precisions))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("names", [np.arange(40), np.array([f"c{i:02d}" for i in range(40)])], ids=["int", "str"])
def test_card_precision_against_the_naive_way(seed: int, names: np.ndarray) -> None:
    scores, labels = draw(seed, 400, levels=4)
    random = np.random.default_rng(seed + 100)
    customers, days = names[random.integers(0, 40, 400)], random.integers(100, 104, 400)
    expected = naive_card_precision(scores, labels, customers, days, 10)
    assert card_precision(scores, labels, customers, days, top=10) == pytest.approx(expected, abs=1e-12)


def test_card_precision_lets_a_caught_card_go() -> None:
    scores, labels = np.array([0.9, 0.9]), np.array([True, True])
    customers = np.array([5, 5])
    assert card_precision(scores, labels, customers, np.array([1, 1]), top=1) == 1.0  # twice on one day: one card
    assert card_precision(scores, labels, customers, np.array([1, 2]), top=1) == 0.5  # caught on the first


def test_card_precision_counts_empty_places() -> None:
    assert card_precision(np.array([0.9]), np.array([True]), np.array([1]), np.array([1]), top=100) == 0.01


def naive_test_rows(days: np.ndarray, customers: np.ndarray, labels: np.ndarray, start: int) -> list[bool]:
    kept = []
    for day, customer in zip(days, customers, strict=True):
        own = labels & (customers == customer)
        in_train = (own & (days >= start) & (days < start + 7)).any()
        before = (own & (days >= start) & (days <= day - 8)).any()
        kept.append(bool(start + 14 <= day < start + 21 and not in_train and not before))
    return kept


@pytest.mark.parametrize("seed", range(4))
def test_protocol_rows_against_the_words_of_the_protocol(seed: int) -> None:
    random = np.random.default_rng(seed)
    days, customers = random.integers(0, 40, 1_500), random.integers(0, 60, 1_500)
    labels = random.random(1_500) < 0.05
    train, test = protocol_rows(days, customers, labels, 10)
    assert train.tolist() == [10 <= day < 17 for day in days]
    assert test.tolist() == naive_test_rows(days, customers, labels, 10)


def test_protocol_rows_of_the_benchmark() -> None:
    folder = find_benchmark(None)
    if folder is None:
        pytest.skip("the public benchmark is not here")
    events = read_benchmark(folder)
    first = int(np.datetime64("2018-07-25", "D").astype(np.int64))
    days = events["event_time"].cast("int64").to_numpy() // DAY_NS
    labels = events["is_fraud"].to_numpy()
    train, test = protocol_rows(days, events["customer_id"].cast("int64").to_numpy(), labels, first)
    assert (train.sum(), labels[train].sum()) == (67_240, 598)
    assert (test.sum(), labels[test].sum()) == (58_264, 385)
