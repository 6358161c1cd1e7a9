//! The kernel behind `fraudgate.idempotency.IdempotencyTable`.
//!
//! The dictionary of the reference misses the caches at every look-up, one after the other. Here a batch asks for all of
//! the memory it will touch before it looks the first id up, and nothing is a Python object. First everything that may
//! fail, then the claims: no batch is ever claimed in part.

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyIndexError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

use crate::answer_rows::ROW_BYTES;
use crate::columns::Columns;
use crate::digest::DIGEST_BYTES;
use crate::kernels::buffers::{require, writable};
use crate::panics::caught;
use crate::transaction::Text;
use ids::ID_BYTES_MAX;
use ring::{Arrays, Claim, DIGEST_WORDS, Ring};

mod ids;
mod index;
mod ring;

/// `fraudgate.claims.ClaimRing`, natively.
#[pyclass]
pub struct ClaimKernel {
    ring: Ring,
    buffers: Buffers,
}

/// The arrays of the table; NumPy lets none be resized while it is held.
struct Buffers {
    digests: PyBuffer<u64>,
    claimed_ns: PyBuffer<i64>,
    answers: PyBuffer<u8>,
}

/// fresh, fresh_slots, replays, replay_slots, conflicts.
type Found = (Vec<usize>, Vec<usize>, Vec<usize>, Vec<usize>, Vec<usize>);

#[pymethods]
impl ClaimKernel {
    #[new]
    fn new(
        py: Python<'_>,
        entries_max: usize,
        lifetime_ns: i64,
        digests: PyBuffer<u64>,
        claimed_ns: PyBuffer<i64>,
        answers: PyBuffer<u8>,
    ) -> PyResult<Self> {
        let slots = claimed_ns.item_count();
        require(entries_max > 0 && slots > entries_max, "there must be entries, and more slots than entries")?;
        require(u32::try_from(slots).is_ok(), "there are at most 2**32 - 1 slots")?;
        let fits = digests.item_count() == slots * DIGEST_WORDS && answers.item_count() == slots * ROW_BYTES;
        require(fits, "the arrays must have the same number of slots")?;
        let buffers = Buffers { digests, claimed_ns, answers };
        buffers.arrays(py)?;
        Ok(Self { ring: Ring::new(slots, entries_max, lifetime_ns), buffers })
    }

    fn __len__(&self) -> usize {
        self.ring.ids.held()
    }

    #[getter]
    fn evicted_early(&self) -> u64 {
        self.ring.evicted_early
    }

    fn claim(
        &mut self,
        py: Python<'_>,
        ids: Vec<Bound<'_, PyString>>,
        digests: Vec<Bound<'_, PyBytes>>,
        rows: Vec<usize>,
        now_ns: i64,
    ) -> PyResult<Found> {
        require(ids.len() == rows.len() && digests.len() == rows.len(), "one id and one digest for each row")?;
        let parts = rows.iter().zip(&ids).zip(&digests);
        let batch: PyResult<Vec<_>> =
            parts.map(|((row, id), digest)| Ok(claim_of(*row, text(id)?, digest_of(digest)?))).collect();
        self.claim_all(py, &batch?, now_ns)
    }

    fn claim_batch(&mut self, py: Python<'_>, columns: &Columns, now_ns: i64) -> PyResult<Found> {
        let rows = &columns.rows;
        let parts = rows.texts(Text::TransactionId).zip(rows.digests()).enumerate();
        let batch: PyResult<Vec<_>> = parts.map(|(row, (id, digest))| Ok(claim_of(row, short(id)?, digest))).collect();
        self.claim_all(py, &batch?, now_ns)
    }

    fn release(&mut self, slots: Vec<usize>) -> PyResult<()> {
        for slot in slots {
            self.check(slot)?;
            self.ring.ids.remove(slot);
        }
        Ok(())
    }

    fn ahead(&self, py: Python<'_>, slots: usize) -> PyResult<Vec<(usize, usize)>> {
        Ok(self.ring.ahead(slots, &self.buffers.arrays(py)?))
    }

    fn live(&self) -> Vec<usize> {
        self.ring.live()
    }

    fn ids(&self, slots: Vec<usize>) -> PyResult<Vec<&str>> {
        slots.into_iter().map(|slot| self.check(slot).map(|()| self.ring.ids.get(slot).unwrap_or_default())).collect()
    }

    fn fill(&mut self, ids: Vec<Bound<'_, PyString>>) -> PyResult<Vec<usize>> {
        let ids: PyResult<Vec<_>> = ids.iter().map(text).collect();
        Ok(self.ring.fill(&ids?))
    }
}

impl ClaimKernel {
    fn claim_all(&mut self, py: Python<'_>, batch: &[Claim<'_>], now_ns: i64) -> PyResult<Found> {
        let arrays = self.buffers.arrays(py)?;
        let claims = caught(|| self.ring.claim(batch, now_ns, &arrays))?;
        Ok((claims.fresh, claims.fresh_slots, claims.replays, claims.replay_slots, claims.conflicts))
    }

    fn check(&self, slot: usize) -> PyResult<()> {
        match slot < self.buffers.claimed_ns.item_count() {
            true => Ok(()),
            false => Err(PyIndexError::new_err(format!("there is no slot {slot}"))),
        }
    }
}

impl Buffers {
    fn arrays<'a>(&'a self, py: Python<'a>) -> PyResult<Arrays<'a>> {
        Ok(Arrays {
            digests: writable(py, &self.digests)?,
            claimed_ns: writable(py, &self.claimed_ns)?,
            answers: writable(py, &self.answers)?,
        })
    }
}

fn claim_of<'a>(row: usize, id: &'a str, digest: &[u8; DIGEST_BYTES]) -> Claim<'a> {
    let (words, _) = digest.as_chunks();
    Claim { row, id, digest: std::array::from_fn(|word| u64::from_ne_bytes(words[word])) }
}

fn digest_of<'a>(digest: &'a Bound<'_, PyBytes>) -> PyResult<&'a [u8; DIGEST_BYTES]> {
    digest.as_bytes().try_into().map_err(|_| PyValueError::new_err("a digest must have 16 bytes"))
}

fn text<'a>(id: &'a Bound<'_, PyString>) -> PyResult<&'a str> {
    short(id.to_str()?)
}

fn short(id: &str) -> PyResult<&str> {
    require(id.len() <= ID_BYTES_MAX, "a transaction_id has more than 64 bytes")?;
    Ok(id)
}
