//! The native front end of Fraudgate: what happens per packet. Python owns the batch.
//!
//! No thread of this crate ever takes the interpreter lock: Python pulls batches and pushes answers, native threads
//! wake it through an eventfd.

use pyo3::prelude::*;

pub mod admission;
pub mod answer_rows;
pub mod answers;
pub mod batcher;
pub mod columns;
mod decoding;
pub mod digest;
mod export;
pub mod kernels;
pub mod load;
mod panics;
pub mod renderer;
pub mod rows;
pub mod server;
pub mod transaction;
pub mod wire;

#[pymodule]
fn fraudgate_ingress(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    transaction::register(module)?;
    batcher::register(module)?;
    admission::register(module)?;
    columns::register(module)?;
    answers::register(module)?;
    kernels::register(module)?;
    server::register(module)?;
    load::register(module)?;
    panics::register(module)?;
    Ok(())
}
