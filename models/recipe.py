"""The recipe as numbers: everything that shapes a model, except the seeds and the rows."""

from dataclasses import dataclass, field
from typing import NamedTuple

from fraudgate.features.schema import FeatureSchema
from models.ramps import SPARSE, STARTS, RampPlan


class Teacher(NamedTuple):
    """What a teacher is made of."""

    groups: int = 5  # of customers; a row is answered by models that were fitted without its group
    forests: int = 2  # seeds of boosted trees
    networks: int = 4  # seeds of networks on each of network_ramps, fitted as the student is, on labels alone
    hidden: tuple[int, ...] = (64, 32)  # of the networks
    epochs: int = 25  # of the networks
    forest_ramps: RampPlan = SPARSE
    network_ramps: tuple[RampPlan, ...] = (RampPlan(), SPARSE)  # they stay where they are laid
    forest_share: float = 0.4  # of the answer
    genuine_share: float = 1.0  # of the genuine rows that the trees see, each weighted up to stand for all


class Distillation(NamedTuple):
    """How much of the loss is the label's, and how soft the teacher's answer is made."""

    alpha: float = 0.5  # the label's share; the teacher's is 1 - alpha. Without a teacher: 1
    temperature: float = 1.0  # both logits are divided by it before they are compared
    delay_week: bool = True  # fit on the teacher's answers for the delay week too, whose labels are unknown

    @property
    def taught(self) -> bool:
        """Whether a teacher has any say."""
        return self.alpha < 1 or self.delay_week


LABELS_ALONE = Distillation(alpha=1.0, delay_week=False)


class Rounding(NamedTuple):
    """How a fitted network is trained on with its first layer rounded."""

    epochs: int = 6
    learning_rate: float = 0.0005
    doubled_ramps: int = 2  # laid twice, with half the weights each: those that set the widest ranges
    steep_draws: int = 1  # how often an epoch draws a row whose score is neither almost 0 nor almost 1
    slope_power: float = 0.5  # a logit's error counts by the sigmoid's slope to this power; 1: as the score's does
    paired: bool = False  # ramps are laid in pairs, so that weights may have 8 bits and not 7
    twin_steps: float = 0.0  # how far apart the two of a ramp that is laid twice lie, in their 8-bit steps
    settling_sweeps: int = 0  # through all weights, which then go to the whole steps that are best together


@dataclass(frozen=True)
class Recipe:
    """Teacher, student and how they are fitted."""

    hidden: tuple[int, ...] = (48, 16)
    epochs: int = 25
    learning_rate: float = 0.01
    weight_decay: float = 0.1
    batch_rows: int = 1_024
    averaged: float = 0.0  # the weights are averaged over the steps of this share of the epochs, the last ones
    side_by_side: bool = True  # seeds are fitted as one stack: quicker where layers are small
    ramps: RampPlan = STARTS
    ramp_rate: float = 0.3  # the ramps' ends are fitted too, at this share of the learning rate; 0: they stay
    teacher: Teacher = field(default_factory=Teacher)
    distillation: Distillation = field(default_factory=Distillation)
    rounding: Rounding = field(default_factory=Rounding)

    @property
    def schema(self) -> FeatureSchema:
        """Of the features that the student is given."""
        return self.ramps.schema
