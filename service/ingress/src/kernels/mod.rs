//! Inner loops of the feature store and of the idempotency table, moved here because sixty NumPy calls, or as many
//! cache misses one after the other, cost more than the work.
//!
//! The design stays in Python: `fraudgate.features.windows` owns the arrays and explains the arena, and its code is the
//! reference that these loops equal bit for bit; that of the table is `fraudgate.claims`. Here a batch is taken plainly,
//! row by row.

use pyo3::prelude::*;

mod arena;
mod batch;
mod buffers;
mod claims;
mod drafts;
mod events;
mod ids;
mod memo;
mod memory;
mod program;
mod recent;
mod rules;
mod stages;
mod windows;

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<claims::ClaimKernel>()?;
    module.add_class::<rules::RuleKernel>()?;
    memory::register(module)?;
    recent::register(module)?;
    stages::register(module)?;
    drafts::register(module)?;
    module.add_class::<windows::WindowKernel>()
}
