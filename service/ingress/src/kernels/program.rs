//! A feature schema as the kernel runs it; `fraudgate.features.kernel.Program` says what each field means.

use std::cell::Cell;
use std::ops::Range;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::transaction::Text;

use super::arena::{Arena, COLUMNS_MAX, Totals};

const COUNT: usize = 0;
const PAID: usize = 1;
const HIGH: usize = 2;
const LOW: usize = 3;
const HALF_BITS: u32 = 20;
const HALF: i64 = 1 << HALF_BITS;
const HOURS_A_WEEK: usize = 168;
const HOUR_NS: i64 = 3_600_000_000_000;

/// What Python hands over, read attribute by attribute.
#[derive(FromPyObject)]
struct Description {
    features: usize,
    columns: usize,
    money: bool,
    reads_money: bool,
    has_profiles: bool,
    tick_ns: i64,
    currency: String,
    lateness: i64,
    id_columns: Vec<usize>,
    keep: Vec<i64>,
    edges: Vec<(usize, i64)>,
    terms: Vec<(usize, String, usize, usize, f64)>,
    amounts: Vec<usize>,
    calendar: Vec<(usize, Vec<f64>)>,
    exponent_scale: f64,
    fraud_kinds: Vec<usize>,
}

#[derive(Clone, Copy)]
enum Aggregate {
    Count,
    Sum,
    Mean,
    FraudShare,
}

/// One window feature: the totals at two edges, and what is made of their difference.
struct Term {
    feature: usize,
    aggregate: Aggregate,
    to: usize,
    from: usize,
    /// The value of an empty window, where that is not the 0 that comes out by itself.
    empty: Option<f64>,
}

/// The edges of one kind of entity.
pub struct Kind {
    /// How many ticks a series keeps.
    pub keep: i64,
    /// The edges to search, next to each other, and how many ticks each is before the event.
    pub searched: Range<usize>,
    pub back: Vec<i64>,
    /// The edge at the event itself.
    pub own: usize,
}

pub struct Program {
    pub features: usize,
    pub columns: usize,
    pub tick_ns: i64,
    pub currency: String,
    /// By kind: where a batch has the ids.
    pub id_columns: Vec<Text>,
    /// Ticks; an event older than this before its series' latest is stale.
    pub lateness: i64,
    pub edges: usize,
    pub kinds: Vec<Kind>,
    pub fraud_kinds: Vec<usize>,
    /// A row in another currency than the schema's has defaulted features.
    pub reads_money: bool,
    /// What they default stands in the rows' fallback when a batch begins; else nothing does.
    pub has_profiles: bool,
    money: bool,
    terms: Vec<Term>,
    amounts: Vec<usize>,
    calendar: Vec<(usize, Vec<f64>)>,
    exponent_scale: f64,
}

impl Program {
    /// Raises ValueError when a number points outside of what the others describe.
    pub fn read(described: &Bound<'_, PyAny>) -> PyResult<Program> {
        let it: Description = described.extract()?;
        let edges = it.edges.len();
        let kinds = (0..it.keep.len()).map(|kind| it.kind(kind)).collect::<PyResult<Vec<_>>>()?;
        let terms = it.terms.iter().map(|term| Term::read(term, edges)).collect::<PyResult<Vec<_>>>()?;
        let mut written = it.amounts.iter().chain(it.calendar.iter().map(|(feature, _)| feature));
        require(written.all(|feature| *feature < it.features), "a feature")?;
        require(terms.iter().all(|term| term.feature < it.features), "a term's feature")?;
        require(it.edges.iter().all(|(kind, _)| *kind < kinds.len()), "an edge's kind")?;
        require(it.fraud_kinds.iter().all(|kind| *kind < kinds.len()), "a kind with frauds")?;
        require(it.calendar.iter().all(|(_, hours)| hours.len() == HOURS_A_WEEK), "a calendar's hours")?;
        let id_column = |column: &usize| Text::ALL.get(*column).copied();
        let id_columns: Vec<_> = it.id_columns.iter().filter_map(id_column).collect();
        require(id_columns.len() == it.id_columns.len() && id_columns.len() == kinds.len(), "a column of ids")?;
        let shares = terms.iter().any(|term| matches!(term.aggregate, Aggregate::FraudShare));
        let columns = if it.money { LOW } else { COUNT } + 1 + usize::from(shares);
        require(it.columns == columns && it.tick_ns > 0 && edges > 0, "columns, tick_ns or edges")?;
        Ok(Program {
            features: it.features,
            columns: it.columns,
            tick_ns: it.tick_ns,
            currency: it.currency,
            id_columns,
            lateness: it.lateness,
            edges,
            kinds,
            fraud_kinds: it.fraud_kinds,
            reads_money: it.reads_money,
            has_profiles: it.has_profiles,
            money: it.money,
            terms,
            amounts: it.amounts,
            calendar: it.calendar,
            exponent_scale: it.exponent_scale,
        })
    }

    /// What an event adds to the totals; `paid`: it is in the schema's currency.
    pub fn increment(&self, amount_minor: i64, paid: bool) -> Totals {
        let mut added = [0; COLUMNS_MAX];
        added[COUNT] = 1;
        if self.money && paid {
            added[PAID] = 1;
            added[HIGH] = amount_minor >> HALF_BITS;
            added[LOW] = amount_minor & (HALF - 1);
        }
        added
    }

    /// Write the amount, weekend and hours features of one row, `values` of all features.
    pub fn fill_request(&self, values: &[Cell<f64>], event_time_ns: i64, amount_minor: i64, paid: bool) {
        for feature in &self.amounts {
            values[*feature].set(if paid { amount_minor as f64 / self.exponent_scale } else { 0.0 });
        }
        if !self.calendar.is_empty() {
            let hour = event_time_ns.div_euclid(HOUR_NS).rem_euclid(HOURS_A_WEEK as i64) as usize;
            for (feature, hours) in &self.calendar {
                values[*feature].set(hours[hour]);
            }
        }
    }

    /// Write the window features of one row; `buckets`: where each edge's totals are.
    pub fn fill_windows(&self, values: &[Cell<f64>], arena: &Arena<'_>, buckets: &[usize]) {
        for term in &self.terms {
            values[term.feature].set(self.window(term, arena, buckets[term.to], buckets[term.from]));
        }
    }

    /// The operations of `Plan.fill_windows`, in its order, so that every bit is the same.
    fn window(&self, term: &Term, arena: &Arena<'_>, to: usize, from: usize) -> f64 {
        let within = |column: usize| (arena.total(to, column) - arena.total(from, column)) as f64;
        let counted = match term.aggregate {
            Aggregate::Sum | Aggregate::Mean => within(PAID),
            Aggregate::Count | Aggregate::FraudShare => within(COUNT),
        };
        if let (true, Some(empty)) = (counted == 0.0, term.empty) {
            return empty;
        }
        let below = counted.max(1.0); // of nothing there is nothing: 0 / 1
        let money = || within(HIGH) * HALF as f64 + within(LOW);
        match term.aggregate {
            Aggregate::Count => counted,
            Aggregate::Sum => money() / self.exponent_scale,
            Aggregate::Mean => money() / below / self.exponent_scale,
            Aggregate::FraudShare => within(self.columns - 1) / below,
        }
    }
}

impl Description {
    fn kind(&self, kind: usize) -> PyResult<Kind> {
        let mine = |place: &usize| self.edges[*place].0 == kind;
        let (searched, own): (Vec<_>, Vec<_>) =
            (0..self.edges.len()).filter(mine).partition(|place| self.edges[*place].1 != 0);
        let first = searched.first().copied().unwrap_or(0);
        require(own.len() == 1 && searched.iter().copied().eq(first..first + searched.len()), "a kind's edges")?;
        Ok(Kind {
            keep: self.keep[kind],
            searched: first..first + searched.len(),
            back: searched.iter().map(|place| self.edges[*place].1).collect(),
            own: own[0],
        })
    }
}

impl Term {
    fn read(term: &(usize, String, usize, usize, f64), edges: usize) -> PyResult<Term> {
        let (feature, name, to, from, empty) = term;
        let aggregate = match name.as_str() {
            "count" => Aggregate::Count,
            "sum" => Aggregate::Sum,
            "mean" => Aggregate::Mean,
            "fraud_share" => Aggregate::FraudShare,
            _ => return Err(PyValueError::new_err(format!("{name:?} is not an aggregate"))),
        };
        require(*to < edges && *from < edges, "a term's edges")?;
        let empty = (*empty != 0.0).then_some(*empty);
        Ok(Term { feature: *feature, aggregate, to: *to, from: *from, empty })
    }
}

fn require(held: bool, what: &str) -> PyResult<()> {
    if held { Ok(()) } else { Err(PyValueError::new_err(format!("{what} is out of range"))) }
}
