//! A panic in what Python calls: an exception that Python handles like any other failure of ours, and counted. PyO3's own
//! is no `Exception`, so that it would go past every handler.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

static COUNT: AtomicU64 = AtomicU64::new(0);

/// Run `act`; where it panics, RuntimeError.
pub fn caught<T>(act: impl FnOnce() -> PyResult<T>) -> PyResult<T> {
    catch_unwind(AssertUnwindSafe(act)).unwrap_or_else(|_| {
        COUNT.fetch_add(1, Ordering::Relaxed);
        Err(PyRuntimeError::new_err("a panic in native code, which standard error tells of"))
    })
}

/// How many panics were turned into exceptions, since the start.
#[pyfunction]
fn panics() -> u64 {
    COUNT.load(Ordering::Relaxed)
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(panics, module)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_and_counted() {
        assert_eq!((caught(|| Ok(7)).ok(), panics()), (Some(7), 0));
        assert!(caught::<()>(|| panic!("a mistake of ours")).is_err());
        assert_eq!(panics(), 1);
    }
}
