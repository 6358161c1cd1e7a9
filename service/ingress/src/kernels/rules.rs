//! The kernel behind `fraudgate.guardrails.fused`: conditions that are made of columns of numbers and never fail.
//!
//! Most rules fire on no row of a batch, and NumPy takes longer to be called than to compare 32 rows. Conditions come as
//! programs of a stack machine whose numbers are columns of up to 32 rows and whose truth values are the bits of a word.

use std::cell::Cell;

use pyo3::buffer::{PyBuffer, ReadOnlyCell};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::buffers::{readable, require, writable};
use crate::panics::caught;

/// Rows that are taken together: the bits of a word.
const ROWS: usize = u32::BITS as usize;

/// Of a rule: its first operand, what else must hold where all of that is numbers, and whether Python looks at the rest.
type Description = (Vec<Word>, Vec<Word>, bool);
/// A step by name, and the number that belongs to it.
type Word = (String, i64, f64);

#[derive(Clone, Copy)]
enum Step {
    Feature(usize),
    Amount,
    Int(i64),
    Double(f64),
    Arithmetic(fn(f64, f64) -> f64),
    Compare(Comparison),
    And,
}

#[derive(Clone, Copy)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
}

/// What lies on the stack.
#[derive(Clone, Copy)]
enum Value {
    Ints([i64; ROWS]),
    Doubles([f64; ROWS]),
    Truth(u32),
}

struct Rule {
    first: Vec<Step>,
    others: Vec<Step>,
    is_open: bool,
}

/// The columns of some rows, at most `ROWS`.
struct Rows<'a> {
    features: &'a [ReadOnlyCell<f64>],
    amounts: &'a [ReadOnlyCell<i64>],
    width: usize,
}

/// Evaluates the conditions of a rule set.
#[pyclass(frozen)]
pub struct RuleKernel {
    rules: Vec<Rule>,
}

#[pymethods]
impl RuleKernel {
    #[new]
    fn new(rules: Vec<Description>) -> PyResult<Self> {
        let rules: PyResult<Vec<_>> = rules.iter().map(Rule::read).collect();
        let rules = rules?;
        require(rules.len() <= u64::BITS as usize, "there are at most 64 rules")?;
        Ok(Self { rules })
    }

    /// Set bit i of the rows where rule i is true. Returns the bits that were set, and those of the rules that Python has
    /// to look at: the first operand holds somewhere, and there is more to it than numbers.
    fn fire(
        &self,
        py: Python<'_>,
        features: PyBuffer<f64>,
        amounts: PyBuffer<i64>,
        bits: PyBuffer<u64>,
    ) -> PyResult<(u64, u64)> {
        let (rows, width) = match *features.shape() {
            [rows, width] => (rows, width),
            _ => return Err(PyValueError::new_err("features must be [rows, F]")),
        };
        let (features, amounts, bits) = (readable(py, &features)?, readable(py, &amounts)?, writable(py, &bits)?);
        require(amounts.len() == rows && bits.len() == rows, "one amount and one word for each row")?;
        let wanted = |step: &Step| matches!(step, Step::Feature(feature) if *feature >= width);
        require(rows == 0 || !self.steps().any(wanted), "a rule names a feature that there is not")?;
        caught(|| self.fire_all(features, amounts, bits, width))
    }
}

impl RuleKernel {
    fn steps(&self) -> impl Iterator<Item = &Step> {
        self.rules.iter().flat_map(|rule| rule.first.iter().chain(&rule.others))
    }

    fn fire_all(
        &self,
        features: &[ReadOnlyCell<f64>],
        amounts: &[ReadOnlyCell<i64>],
        bits: &[Cell<u64>],
        width: usize,
    ) -> (u64, u64) {
        let (mut fired, mut open, mut stack) = (0, 0, Vec::new());
        for (part, bits) in bits.chunks(ROWS).enumerate() {
            let rows = part * ROWS..part * ROWS + bits.len();
            let features = &features[rows.start * width..rows.end * width];
            let rows = Rows { features, amounts: &amounts[rows], width };
            for (number, rule) in self.rules.iter().enumerate() {
                let mut truth = rows.evaluate(&rule.first, &mut stack);
                if truth == 0 {
                    continue;
                }
                if rule.is_open {
                    open |= 1 << number;
                    continue;
                }
                if !rule.others.is_empty() {
                    truth &= rows.evaluate(&rule.others, &mut stack);
                }
                fired |= u64::from(truth != 0) << number;
                for (row, cell) in bits.iter().enumerate() {
                    cell.set(cell.get() | u64::from(truth >> row & 1) << number);
                }
            }
        }
        (fired, open)
    }
}

impl Rows<'_> {
    /// The rows where a condition holds.
    fn evaluate(&self, steps: &[Step], stack: &mut Vec<Value>) -> u32 {
        stack.clear();
        for step in steps {
            let value = match step {
                Step::Feature(feature) => {
                    Value::Doubles(self.column(|row| self.features[row * self.width + feature].get()))
                }
                Step::Amount => Value::Ints(self.column(|row| self.amounts[row].get())),
                Step::Int(number) => Value::Ints([*number; ROWS]),
                Step::Double(number) => Value::Doubles([*number; ROWS]),
                Step::Arithmetic(_) | Step::Compare(_) | Step::And => match (stack.pop(), stack.pop()) {
                    (Some(right), Some(left)) => self.combined(step, left, right),
                    _ => Value::Truth(0), // `Rule::read` lets none of this through
                },
            };
            stack.push(value);
        }
        match stack.pop() {
            Some(Value::Truth(rows)) => rows,
            _ => 0,
        }
    }

    fn column<T: Default + Copy>(&self, of: impl Fn(usize) -> T) -> [T; ROWS] {
        let mut column = [T::default(); ROWS];
        column.iter_mut().take(self.amounts.len()).enumerate().for_each(|(row, value)| *value = of(row));
        column
    }

    fn combined(&self, step: &Step, left: Value, right: Value) -> Value {
        match (step, left, right) {
            (Step::Arithmetic(of), Value::Doubles(a), Value::Doubles(b)) => {
                Value::Doubles(std::array::from_fn(|row| of(a[row], b[row])))
            }
            (Step::Compare(comparison), Value::Doubles(a), Value::Doubles(b)) => {
                Value::Truth(self.compared(*comparison, &a, &b))
            }
            (Step::Compare(comparison), Value::Ints(a), Value::Ints(b)) => {
                Value::Truth(self.compared(*comparison, &a, &b))
            }
            (Step::Compare(comparison), Value::Truth(a), Value::Truth(b)) => {
                Value::Truth(comparison.of_truths(a, b) & self.all())
            }
            (Step::And, Value::Truth(a), Value::Truth(b)) => Value::Truth(a & b),
            _ => Value::Truth(0), // `Rule::read` lets none of this through
        }
    }

    fn compared<T: PartialOrd>(&self, comparison: Comparison, a: &[T; ROWS], b: &[T; ROWS]) -> u32 {
        let rows = match comparison {
            Comparison::Equal => rows_where(|row| a[row] == b[row]),
            Comparison::NotEqual => rows_where(|row| a[row] != b[row]),
            Comparison::Less => rows_where(|row| a[row] < b[row]),
            Comparison::LessEqual => rows_where(|row| a[row] <= b[row]),
            Comparison::Greater => rows_where(|row| a[row] > b[row]),
            Comparison::GreaterEqual => rows_where(|row| a[row] >= b[row]),
        };
        rows & self.all()
    }

    fn all(&self) -> u32 {
        u32::MAX.checked_shr((ROWS - self.amounts.len()) as u32).unwrap_or(0)
    }
}

impl Comparison {
    /// False is less than true.
    fn of_truths(self, a: u32, b: u32) -> u32 {
        match self {
            Comparison::Equal => !(a ^ b),
            Comparison::NotEqual => a ^ b,
            Comparison::Less => !a & b,
            Comparison::LessEqual => !a | b,
            Comparison::Greater => a & !b,
            Comparison::GreaterEqual => a | !b,
        }
    }
}

fn rows_where(holds: impl Fn(usize) -> bool) -> u32 {
    (0..ROWS).fold(0, |rows, row| rows | u32::from(holds(row)) << row)
}

impl Rule {
    fn read((first, others, is_open): &Description) -> PyResult<Self> {
        let (first, others) = (program(first)?, if others.is_empty() { Vec::new() } else { program(others)? });
        Ok(Self { first, others, is_open: *is_open })
    }
}

/// The kinds of values, for what `program` lets through.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Int,
    Double,
    Truth,
}

/// Steps that leave one truth value. Raises ValueError for any others.
fn program(words: &[Word]) -> PyResult<Vec<Step>> {
    let steps: PyResult<Vec<_>> = words.iter().map(step).collect();
    let steps = steps?;
    let mut kinds: Vec<Kind> = Vec::new();
    for step in &steps {
        let kind = match step {
            Step::Feature(_) | Step::Double(_) => Kind::Double,
            Step::Amount | Step::Int(_) => Kind::Int,
            Step::Arithmetic(_) | Step::Compare(_) | Step::And => {
                let both = kinds.pop().zip(kinds.pop());
                match (step, both) {
                    (Step::Arithmetic(_), Some((Kind::Double, Kind::Double))) => Kind::Double,
                    (Step::Compare(_), Some((a, b))) if a == b => Kind::Truth,
                    (Step::And, Some((Kind::Truth, Kind::Truth))) => Kind::Truth,
                    _ => return Err(PyValueError::new_err("an operator has other operands")),
                }
            }
        };
        kinds.push(kind);
    }
    require(kinds == [Kind::Truth], "a condition is one truth value")?;
    Ok(steps)
}

fn step((name, number, value): &Word) -> PyResult<Step> {
    Ok(match name.as_str() {
        "feature" => Step::Feature(usize::try_from(*number)?),
        "amount" => Step::Amount,
        "int" => Step::Int(*number),
        "double" => Step::Double(*value),
        "+" => Step::Arithmetic(|a, b| a + b),
        "-" => Step::Arithmetic(|a, b| a - b),
        "*" => Step::Arithmetic(|a, b| a * b),
        "/" => Step::Arithmetic(|a, b| a / b),
        "==" => Step::Compare(Comparison::Equal),
        "!=" => Step::Compare(Comparison::NotEqual),
        "<" => Step::Compare(Comparison::Less),
        "<=" => Step::Compare(Comparison::LessEqual),
        ">" => Step::Compare(Comparison::Greater),
        ">=" => Step::Compare(Comparison::GreaterEqual),
        "&" => Step::And,
        _ => return Err(PyValueError::new_err(format!("{name:?} is not a step"))),
    })
}
