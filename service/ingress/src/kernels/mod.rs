//! Inner loops of the feature store, moved here because sixty NumPy calls cost more than the work.
//!
//! The design stays in Python: `fraudgate.features.windows` owns the arrays and explains the arena, and its code is the
//! reference that these loops equal bit for bit. Here a batch is taken plainly, row by row.

use pyo3::prelude::*;

mod arena;
mod batch;
mod ids;
mod memo;
mod memory;
mod program;
mod windows;

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<windows::WindowKernel>()
}
