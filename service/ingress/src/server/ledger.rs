//! The ledger: what each decision took from its arrival to its bytes, beside the sum of its stages and its budget. The
//! reference is `fraudgate.latency.ledger`.

use pyo3::buffer::PyBuffer;
use pyo3::prelude::*;

use super::cells::Cells;
use crate::answer_rows::AnswerRow;

/// Stages and the whole may differ by so much.
const TOLERANCE_NS: i64 = 50_000;

/// The recorder's cells that are counted here.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub struct Recorded {
    respond: PyBuffer<i64>,
    whole: PyBuffer<i64>,
    budget_spent: PyBuffer<i64>,
    refuse: PyBuffer<i64>,
}

/// Where decisions are settled when their bytes have been handed over.
pub struct Ledger {
    respond: Cells,
    whole: Cells,
    budget_spent: Cells,
    refuse: Cells,
    budget_ns: i64,
}

impl Ledger {
    /// `budget_ns`: of a decision without a deadline; 0 = none.
    pub fn new(recorded: Recorded, budget_ns: i64) -> PyResult<Self> {
        let Recorded { respond, whole, budget_spent, refuse } = recorded;
        let [respond, whole, budget_spent] = [Cells::new(respond)?, Cells::new(whole)?, Cells::new(budget_spent)?];
        Ok(Self { respond, whole, budget_spent, refuse: Cells::new(refuse)?, budget_ns })
    }

    /// Record calls that were refused `refuse_ns` after the wake-up that brought them.
    pub fn refused(&self, refuse_ns: i64, calls: u64) {
        self.refuse.record_many(refuse_ns, calls as i64);
    }

    /// Record a decision made now whose bytes were handed over at `sent_ns`. False: its stages do not add up.
    pub fn settle(&self, row: &AnswerRow, arrival_ns: i64, deadline_ns: i64, sent_ns: i64) -> bool {
        let whole_ns = sent_ns - arrival_ns;
        self.respond.record(sent_ns.saturating_sub(row.answered_ns));
        self.whole.record(whole_ns);
        if let Some(per_mille) = spent_per_mille(whole_ns, arrival_ns, deadline_ns, self.budget_ns) {
            self.budget_spent.record(per_mille);
        }
        stages_ns(row, sent_ns).saturating_sub(whole_ns).saturating_abs() <= TOLERANCE_NS
    }
}

/// The sum of the stages as they are recorded: those below 0, of a clock that went back, count as 0.
fn stages_ns(row: &AnswerRow, sent_ns: i64) -> i64 {
    let stamps = [row.arrival_ns, row.taken_up_ns, row.gathered_ns, row.inferred_ns, row.answered_ns, sent_ns];
    let stages = stamps.windows(2).map(|pair| pair[1].saturating_sub(pair[0]).max(0));
    stages.fold(0, i64::saturating_add)
}

/// The share of its own budget that a decision took: the time to its deadline or `budget_ns`, whichever is less.
fn spent_per_mille(whole_ns: i64, arrival_ns: i64, deadline_ns: i64, budget_ns: i64) -> Option<i64> {
    let budgets = [(deadline_ns > 0).then(|| deadline_ns - arrival_ns), (budget_ns > 0).then_some(budget_ns)];
    let budget_ns = budgets.into_iter().flatten().min()?.max(1);
    Some(whole_ns.max(0).saturating_mul(1_000) / budget_ns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer_rows::ROW_BYTES;

    fn row(stamps: [i64; 5]) -> AnswerRow {
        let [arrival_ns, taken_up_ns, gathered_ns, inferred_ns, answered_ns] = stamps;
        let row = AnswerRow::read(&[0; ROW_BYTES]);
        AnswerRow { arrival_ns, taken_up_ns, gathered_ns, inferred_ns, answered_ns, ..row }
    }

    #[test]
    fn stages_are_those_between_the_stamps() {
        assert_eq!(stages_ns(&row([10, 20, 40, 80, 160]), 320), 310);
        assert_eq!(stages_ns(&row([10, 20, 40, 30, 160]), 320), 320, "inference of -10 is recorded as 0");
        assert_eq!(stages_ns(&row([i64::MIN, i64::MAX, 0, 0, 0]), 0), i64::MAX, "and nothing overflows");
    }

    #[test]
    fn the_budget_is_the_smaller_one() {
        for (deadline_ns, budget_ns, spent) in [
            (0, 0, None),
            (0, 50_000, Some(500)),
            (10_100, 50_000, Some(2_500)),
            (100_100, 50_000, Some(500)),
            (100_100, 0, Some(250)),
            (50, 0, Some(25_000_000)),
        ] {
            assert_eq!(spent_per_mille(25_000, 100, deadline_ns, budget_ns), spent, "{deadline_ns} {budget_ns}");
        }
    }
}
