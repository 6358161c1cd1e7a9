//! The series of a batch's ids.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyString};

use super::memo::Memo;

/// The ids of every kind of entity.
pub struct Ids(Vec<Kind>);

struct Kind {
    /// A mapping from id to series, which opens one for an id it has not seen.
    series_of: Py<PyAny>,
    memo: Memo,
}

/// An id, and its hash where the memo may know it.
type Hashed<'a, 'py> = (&'a Bound<'py, PyAny>, Option<(u32, &'a str)>);

impl Ids {
    pub fn new(series_of: Vec<Py<PyAny>>) -> Ids {
        Ids(series_of.into_iter().map(|series_of| Kind { series_of, memo: Memo::new() }).collect())
    }

    pub fn kinds(&self) -> usize {
        self.0.len()
    }

    /// Write the series of these ids, a list for each kind, one kind after another. May run Python code.
    pub fn look_up(&mut self, py: Python<'_>, ids: &[Bound<'_, PyList>], series: &mut Vec<usize>) -> PyResult<()> {
        let held: Vec<Vec<_>> = ids.iter().map(|column| column.iter().collect()).collect();
        let kinds = || held.iter().zip(&self.0);
        let hashed: Vec<Vec<_>> = kinds().map(|(ids, kind)| ids.iter().map(|id| kind.hashed(id)).collect()).collect();
        for (ids, kind) in hashed.iter().zip(&self.0) {
            ids.iter().filter_map(|id| id.1).for_each(|(hash, _)| kind.memo.prefetch_text(hash));
        }
        series.clear();
        for (ids, kind) in hashed.iter().zip(&mut self.0) {
            for id in ids {
                series.push(kind.series(py, id)?);
            }
        }
        Ok(())
    }
}

impl Kind {
    fn hashed<'a, 'py>(&self, id: &'a Bound<'py, PyAny>) -> Hashed<'a, 'py> {
        let text = id.cast_exact::<PyString>().ok().and_then(|text| text.to_str().ok());
        let hashed = text.map(|text| (self.memo.hash(text), text));
        if let Some((hash, _)) = hashed {
            self.memo.prefetch_entry(hash);
        }
        (id, hashed)
    }

    fn series(&mut self, py: Python<'_>, id: &Hashed<'_, '_>) -> PyResult<usize> {
        let (id, hashed) = id;
        if let Some(series) = hashed.and_then(|(hash, text)| self.memo.find(hash, text)) {
            return Ok(series);
        }
        let series: i64 = self.series_of.bind(py).get_item(id)?.extract()?;
        let series = usize::try_from(series).map_err(|_| PyValueError::new_err("a series is negative"))?;
        if let Some((hash, text)) = hashed {
            self.memo.insert(*hash, text, series);
        }
        Ok(series)
    }
}
