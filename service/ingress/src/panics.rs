//! A panic in what Python calls: an exception that Python handles like any other failure of ours, and counted. PyO3's own
//! is no `Exception`, so that it would go past every handler.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

static COUNT: AtomicU64 = AtomicU64::new(0);

/// Run `act`; where it panics, RuntimeError.
pub fn caught<T>(act: impl FnOnce() -> T) -> PyResult<T> {
    counted(act).ok_or_else(|| PyRuntimeError::new_err("a panic in native code, which standard error tells of"))
}

fn counted<T>(act: impl FnOnce() -> T) -> Option<T> {
    let result = catch_unwind(AssertUnwindSafe(act)).ok();
    COUNT.fetch_add(result.is_none().into(), Ordering::Relaxed);
    result
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
    fn a_panic_ends_here_and_is_counted() {
        assert_eq!((counted(|| 7), panics()), (Some(7), 0));
        let ended: Option<()> = counted(|| panic!("a mistake of ours"));
        assert_eq!((ended, panics()), (None, 1));
    }
}
