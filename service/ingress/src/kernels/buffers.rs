//! Arrays of Python as slices, and the refusal of what does not fit.

use std::cell::Cell;

use pyo3::buffer::{Element, PyBuffer, ReadOnlyCell};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

pub fn writable<'a, T: Element>(py: Python<'a>, buffer: &'a PyBuffer<T>) -> PyResult<&'a [Cell<T>]> {
    buffer.as_mut_slice(py).ok_or_else(|| PyValueError::new_err("an array is read-only or not contiguous"))
}

pub fn readable<'a, T: Element>(py: Python<'a>, buffer: &'a PyBuffer<T>) -> PyResult<&'a [ReadOnlyCell<T>]> {
    buffer.as_slice(py).ok_or_else(|| PyValueError::new_err("an array is not contiguous"))
}

pub fn require(held: bool, what: &'static str) -> PyResult<()> {
    if held { Ok(()) } else { Err(PyValueError::new_err(what)) }
}
