//! The series of a batch's ids.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyString;

use super::arena::ABSENT;
use super::memo::Memo;

/// The ids of every kind of entity.
pub struct Ids(Vec<Kind>);

struct Kind {
    /// A mapping from id to series, which opens one for an id it has not seen.
    series_of: Py<PyAny>,
    memo: Memo,
}

/// An id as it came in.
pub enum Id<'a, 'py> {
    /// Empty where it is absent.
    Text(&'a str),
    /// What only the mapping can judge.
    Object(&'a Bound<'py, PyAny>),
}

impl<'a, 'py> Id<'a, 'py> {
    pub fn of(object: &'a Bound<'py, PyAny>) -> Self {
        let text = object.cast_exact::<PyString>().ok().and_then(|text| text.to_str().ok());
        text.map_or(Id::Object(object), Id::Text)
    }
}

impl Ids {
    pub fn new(series_of: Vec<Py<PyAny>>) -> Ids {
        Ids(series_of.into_iter().map(|series_of| Kind { series_of, memo: Memo::new() }).collect())
    }

    pub fn kinds(&self) -> usize {
        self.0.len()
    }

    /// Write the series of these ids, [kinds, rows], one kind after another. May run Python code. `known` is told each.
    pub fn look_up(
        &mut self,
        py: Python<'_>,
        ids: &[Vec<Id<'_, '_>>],
        series: &mut Vec<usize>,
        known: impl Fn(usize),
    ) -> PyResult<()> {
        let hashes: Vec<Vec<_>> = ids.iter().zip(&self.0).map(|(ids, kind)| kind.hashes(ids)).collect();
        series.clear();
        for ((ids, hashes), kind) in ids.iter().zip(&hashes).zip(&mut self.0) {
            for (id, hash) in ids.iter().zip(hashes) {
                let found = kind.series(py, id, *hash)?;
                known(found);
                series.push(found);
            }
        }
        Ok(())
    }
}

impl Kind {
    /// The hashes of the texts; any number for another id.
    fn hashes(&self, ids: &[Id<'_, '_>]) -> Vec<u32> {
        let hash = |id: &Id<'_, '_>| match id {
            Id::Text(text) => self.memo.hash(text),
            Id::Object(_) => 0,
        };
        let hashes: Vec<_> = ids.iter().map(hash).collect();
        hashes.iter().for_each(|hash| self.memo.prefetch(*hash));
        hashes
    }

    fn series(&mut self, py: Python<'_>, id: &Id<'_, '_>, hash: u32) -> PyResult<usize> {
        match id {
            Id::Text("") => Ok(ABSENT),
            Id::Text(text) => match self.memo.find(hash, text) {
                Some(series) => Ok(series),
                None => {
                    let series = self.ask(py, &PyString::new(py, text))?;
                    self.memo.insert(hash, text, series);
                    Ok(series)
                }
            },
            Id::Object(object) => self.ask(py, object),
        }
    }

    fn ask(&self, py: Python<'_>, id: &Bound<'_, PyAny>) -> PyResult<usize> {
        let series: i64 = self.series_of.bind(py).get_item(id)?.extract()?;
        usize::try_from(series).map_err(|_| PyValueError::new_err("a series is negative"))
    }
}
