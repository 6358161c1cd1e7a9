"""The parts of the training recipe that need the [train] extra: teacher, distillation, rounding, search."""

import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

NEEDED = "needs the [train] extra: make train installs it"
torch = pytest.importorskip("torch", reason=NEEDED)
pytest.importorskip("xgboost", reason=NEEDED)
pytest.importorskip("modelopt", reason=NEEDED)

from fraudgate.engines.repository import MANIFEST, Manifest  # noqa: E402
from models import qat, served, train  # noqa: E402
from models.dataset import SCHEMA, Dataset, day_number  # noqa: E402
from models.distil import distil, fit_students  # noqa: E402
from models.fit import Mean, Member, Targets, distillation_loss, fit, labels_alone  # noqa: E402
from models.network import Network  # noqa: E402
from models.protocol import HISTORY_DAY, TRAIN_START, WEEK_DAYS, Split  # noqa: E402
from models.publish import CARD  # noqa: E402
from models.quantise import STEPS_MAX, export, quantise  # noqa: E402
from models.ramps import RampPlan, ramp_layer  # noqa: E402
from models.recipe import LABELS_ALONE, Distillation, Recipe, Rounding, Teacher  # noqa: E402
from models.settling import Rows, best_moves, settle  # noqa: E402
from models.teacher import Lesson, customer_groups, student_rows, teach  # noqa: E402

RAMPS = ramp_layer(RampPlan())
SMALL = Recipe(hidden=(16, 8), epochs=3, batch_rows=128, teacher=Teacher(groups=3, forests=1, networks=1, epochs=3))


@pytest.fixture(scope="module")
def week() -> Split:
    """A week in which large payments are frauds, one time in ten not."""
    random = np.random.default_rng(0)
    rows = 3_000
    features = np.abs(random.normal(50, 40, (rows, len(SCHEMA.names)))).astype(np.float32)
    is_fraud = (features[:, 0] > 110) & (random.random(rows) < 0.9)
    customer = random.integers(0, 300, rows).astype(str)
    return Split(
        "2018-06-20", features[:2_000], is_fraud[:2_000], customer[:2_000], features[2_000:2_500], features, None
    )  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def lesson(week: Split) -> Lesson:
    return teach(week, SMALL)


def naive_loss(logit: float, label: float, teacher: float, alpha: float, temperature: float) -> float:
    def cross_entropy(given: float, wanted: float) -> float:
        chance = 1 / (1 + np.exp(-given))
        return float(-wanted * np.log(chance) - (1 - wanted) * np.log(1 - chance))

    answer = 1 / (1 + np.exp(-teacher / temperature))
    soft = temperature**2 * cross_entropy(logit / temperature, answer)
    return alpha * cross_entropy(logit, label) + (1 - alpha) * soft


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_distillation_loss_is_the_formula(temperature: float) -> None:
    random = np.random.default_rng(0)
    rows = np.column_stack(
        [random.normal(0, 3, 50), random.random(50) < 0.3, random.normal(0, 3, 50), random.random(50)]
    )
    logits, *targets = (torch.tensor(column) for column in rows.T)
    expected = sum(naive_loss(*row, temperature) for row in rows.tolist())
    assert float(distillation_loss(logits, targets, temperature)) == pytest.approx(expected)


def test_all_rows_of_a_customer_are_in_one_group() -> None:
    customers = np.random.default_rng(0).integers(0, 100, 1_000).astype(str)
    groups = customer_groups(customers, 5)
    assert set(groups) == set(range(5))
    assert all(len(set(groups[customers == customer])) == 1 for customer in set(customers))


def test_a_teacher_answers_without_the_labels_that_it_is_asked_about(week: Split, lesson: Lesson) -> None:
    """Labels of one group of customers turned round change every answer but those to that group."""
    group = customer_groups(week.train_customer, SMALL.teacher.groups)
    turned = teach(replace(week, train_fraud=week.train_fraud ^ (group == 0)), SMALL)
    same = turned.train == lesson.train
    assert same[group == 0].all()
    assert not same[group != 0].any()


def test_a_student_sees_labels_of_train_rows_alone(week: Split, lesson: Lesson) -> None:
    features, targets = student_rows(week, lesson, Distillation(alpha=0.3))
    known = len(week.train)
    assert np.array_equal(features, np.concatenate([week.train, week.delay]))
    assert np.array_equal(targets.is_fraud[:known], week.train_fraud)
    np.testing.assert_allclose(targets.alpha[:known], 0.3)
    assert not targets.alpha[known:].any()
    assert np.array_equal(targets.teacher[known:], lesson.delay)
    alone, fewer = student_rows(week, lesson, Distillation(delay_week=False))
    assert len(alone) == len(fewer.alpha) == known


def test_an_unknown_label_changes_nothing(week: Split, lesson: Lesson) -> None:
    features, targets = student_rows(week, lesson, SMALL.distillation)
    turned = Targets(targets.is_fraud ^ (targets.alpha == 0), targets.teacher, targets.alpha)
    members = [Member(0, np.arange(len(features)))]
    (first,), (second,) = (fit(RAMPS, features, each, members, SMALL) for each in (targets, turned))
    assert all(np.array_equal(a, b) for a, b in zip(first.weights, second.weights, strict=True))


def test_members_fitted_side_by_side_are_those_fitted_alone(week: Split) -> None:
    members = [Member(seed, np.arange(len(week.train))) for seed in range(2)]
    together = fit(RAMPS, week.train, labels_alone(week.train_fraud), members, SMALL)
    (alone,) = fit(RAMPS, week.train, labels_alone(week.train_fraud), members[1:], SMALL)
    np.testing.assert_allclose(together[1].logits(week.test), alone.logits(week.test), atol=1e-3)


def test_seeds_fitted_one_by_one_do_not_depend_on_each_other(week: Split) -> None:
    recipe = replace(SMALL, distillation=LABELS_ALONE, side_by_side=False)
    _, second = fit_students(week, None, [0, 1], recipe)
    (alone,) = fit_students(week, None, [1], recipe)
    assert export(second, "fp32") == export(alone, "fp32")


def test_ramps_are_fitted_where_they_look_and_lie_on_steps(week: Split) -> None:
    """A fit may move the ends of a ramp, not make it look at another feature; with a rate of 0 it stays."""
    members, targets = [Member(0, np.arange(len(week.train)))], labels_alone(week.train_fraud)
    (moved,), (still,) = (
        fit(RAMPS, week.train, targets, members, replace(SMALL, ramp_rate=rate)) for rate in (0.3, 0.0)
    )
    assert still.ramps is RAMPS
    assert np.array_equal(moved.ramps.weight != 0, RAMPS.weight != 0)
    assert not np.array_equal(moved.ramps.weight, RAMPS.weight)
    steps = moved.ramps.bias * 255
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-2 * (1 + np.abs(moved.ramps.bias).max()))


def test_weights_are_averaged_over_the_last_epochs(week: Split) -> None:
    parameters = [torch.zeros(2, requires_grad=True), torch.zeros((1, 3), requires_grad=True)]
    mean = Mean(parameters)
    for value in (1.0, 2.0, 6.0):
        for parameter in parameters:
            parameter.data.fill_(value)
        mean.add()
    mean.put()
    for parameter in parameters:
        np.testing.assert_allclose(parameter.detach().numpy(), 3.0, rtol=1e-6)
    members, targets = [Member(0, np.arange(len(week.train)))], labels_alone(week.train_fraud)
    (last,), (averaged,) = (
        fit(RAMPS, week.train, targets, members, replace(SMALL, epochs=4, averaged=share)) for share in (0.0, 0.25)
    )
    moved = np.abs(averaged.weights[0] - last.weights[0])
    assert 0 < moved.max() < 0.1 * np.abs(last.weights[0]).max()  # the last steps of a cycle are small


def test_a_fitted_ramp_is_the_stacks(week: Split) -> None:
    """What is taken apart scores as what was fitted, up to the rounding of the ramps' biases to steps."""
    members, targets = [Member(seed, np.arange(len(week.train))) for seed in range(2)], labels_alone(week.train_fraud)
    for network in fit(RAMPS, week.train, targets, members, replace(SMALL, epochs=20)):
        scores = 1 / (1 + np.exp(-network.logits(week.train)))
        assert np.mean(scores[week.train_fraud]) > 0.5 > 10 * np.mean(scores[~week.train_fraud])


def fake_quantised(model: torch.nn.Sequential, network: Network, features: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        logits = model(torch.from_numpy(network.ramps(features)))
    return 1 / (1 + np.exp(-logits.numpy()[:, 0]))


PAIRED = Rounding(doubled_ramps=3, paired=True, twin_steps=0.5)


@pytest.mark.parametrize("rounding", [Rounding(), PAIRED])
def test_the_librarys_rounding_is_that_of_the_graph(week: Split, lesson: Lesson, rounding: Rounding) -> None:
    """Trained on with ModelOpt, exported by ``quantise``: one score, up to ramps on the edge between two steps."""
    (network,) = fit_students(week, lesson, [0], SMALL)
    network = qat.laid(network, rounding)
    rounded = qat.quantised_model(network, torch.from_numpy(network.ramps(week.train[:128])))
    with torch.no_grad():
        rounded[0].weight *= 1.0 if rounding.paired else 1.3  # beyond the fixed ranges, as training may move them
    read = qat.read_back(rounded, network)
    scores = served.score(export(read, "int8"), "int8", week.test)
    difference = np.abs(scores - fake_quantised(rounded, network, week.test))
    assert np.quantile(difference, 0.99) < 1e-5
    assert difference.max() < 5e-3
    steps, scale = quantise(read.weights[0], read.weight_step)
    np.testing.assert_allclose(
        steps.T * scale[:, None], rounded[0].weight_quantizer(rounded[0].weight).detach().numpy(), atol=1e-6
    )


def test_students_are_the_same_again_and_keep_their_ranges(week: Split, lesson: Lesson) -> None:
    (first,), (second,) = (distil(week, lesson, [3], SMALL) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert export(one, "int8") == export(other, "int8")
    assert first.fitted.weight_step is None
    assert first.rounded.weight_step is not None
    assert (np.abs(first.rounded.weights[0]) <= first.rounded.weight_step * STEPS_MAX * (1 + 1e-6)).all()


@pytest.mark.parametrize("sweeps", [1, 3])
def test_settled_weights_are_whole_steps_and_nearer(week: Split, lesson: Lesson, sweeps: int) -> None:
    """Without training on before it, too: to the logits of the float network, with the rows that are settled on."""
    (network,) = fit_students(week, lesson, [0], replace(SMALL, epochs=20))
    network = qat.laid(network, PAIRED)
    assert network.weight_step is not None
    steps = torch.from_numpy(np.rint(network.ramps(week.train) * 255).astype(np.float32)) / 255
    rows = Rows(steps, torch.from_numpy(network.logits(week.train).astype(np.float32)), torch.ones(len(steps)))
    found = settle(network, rows, sweeps)
    whole = found.weights[0] / network.weight_step
    np.testing.assert_allclose(whole, np.rint(whole), atol=1e-4)
    wanted = served.score(export(network, "fp32"), "fp32", week.train)
    nearest, settled = (
        np.square(served.score(export(each, "int8"), "int8", week.train) - wanted).mean() for each in (network, found)
    )
    assert settled < nearest / 2


def test_a_unit_moves_to_the_best_of_all_its_steps() -> None:
    """Against every combination of two weights in a few steps, the bias always the best."""
    random = np.random.default_rng(0)
    for _ in range(20):
        rows = np.column_stack([random.normal(0, 1, (30, 2)), np.ones(30)])
        error, column = random.normal(0, 1, 30), np.array([3, -2])
        change = best_moves(rows.T @ rows, rows.T @ error, column, 0.5)
        np.testing.assert_allclose(column, [3, -2] + change[:2] / 0.5)
        tried = [np.var(error + rows[:, :2] @ [a, b]) for a in np.arange(-2, 2.5, 0.5) for b in np.arange(-2, 2.5, 0.5)]
        assert np.mean((error + rows @ change) ** 2) == pytest.approx(min(tried), rel=0.02)


@pytest.mark.parametrize(
    "rounding",
    [Rounding(doubled_ramps=0), Rounding(doubled_ramps=3, slope_power=1.0), PAIRED._replace(settling_sweeps=2)],
)
def test_training_on_brings_the_rounded_scores_nearer(week: Split, lesson: Lesson, rounding: Rounding) -> None:
    """In the mean over seeds: one may be lucky in what rounding after training does to it."""
    errors = []
    for student in distil(week, lesson, range(3), replace(SMALL, epochs=20, rounding=rounding)):
        assert len(student.rounded.ramps.bias) == len(student.fitted.ramps.bias) + rounding.doubled_ramps
        wanted = served.score(export(student.fitted, "fp32"), "fp32", week.test)
        errors.append(
            [np.square(served.score(export(each, "int8"), "int8", week.test) - wanted).mean() for each in student]
        )
    after_training, trained_on = np.mean(errors, axis=0)
    assert trained_on < after_training / 2


def separable(rows_a_day: int = 60) -> Dataset:
    """Every day from HISTORY_START to the end of the test week; large payments are frauds, one time in ten not."""
    random = np.random.default_rng(0)
    day = np.repeat(np.arange(HISTORY_DAY, day_number(TRAIN_START) + 3 * WEEK_DAYS), rows_a_day)
    features = np.abs(random.normal(50, 40, (len(day), len(SCHEMA.names))))
    customer = random.integers(0, 2_000, len(day)).astype(str)
    return Dataset(features, day, customer, (features[:, 0] > 110) & (random.random(len(day)) < 0.9))


def test_history_is_fitted_to_labels_alone_from_its_first_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = separable()
    monkeypatch.setattr(train, "load", lambda *_: dataset)
    monkeypatch.setattr(train, "find_floor", lambda *_: {"auc_roc": 0.9})
    monkeypatch.setattr(train, "HISTORY", replace(SMALL, distillation=LABELS_ALONE, epochs=10))
    monkeypatch.setattr(sys, "argv", ["train", "--dataset", "simulated", "--history", "--drafts", str(tmp_path)])
    assert train.main() == 0
    folder = tmp_path / "simulated-history"
    manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    assert manifest.name == "simulated-history"
    card = (folder / CARD).read_text()
    known = int(np.sum(dataset.day < day_number(TRAIN_START) + WEEK_DAYS))
    assert f"{known:,} rows" in card
    assert "labels alone" in card
    assert "| teacher |" not in card
