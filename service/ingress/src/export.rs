//! The rows of a batch as one struct array by Arrow's C data interface. Nothing is copied: the array's buffers are parts
//! of the rows' block, which lives until the consumer has released every array.

use std::ffi::c_void;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow_buffer::Buffer;

use crate::rows::{Number, Rows, Texts};
use crate::transaction::Text;

/// ``struct ArrowArray`` of the C data interface.
#[repr(C)]
pub struct ArrowArray {
    length: i64,
    null_count: i64,
    offset: i64,
    n_buffers: i64,
    n_children: i64,
    buffers: *mut *const c_void,
    children: *mut *mut ArrowArray,
    dictionary: *mut ArrowArray,
    /// None once the array was moved out or released.
    release: Option<unsafe extern "C" fn(*mut ArrowArray)>,
    private_data: *mut c_void,
}

/// The columns in the order of ``transaction.REQUEST_SCHEMA``, then what the map of attributes is made of.
const COLUMNS: usize = 13;
const ATTRIBUTES: usize = 10;
const ENTRIES: usize = COLUMNS;
const KEYS: usize = ENTRIES + 1;
const VALUES: usize = KEYS + 1;
const ARRAYS: usize = VALUES + 1;

type Buffers = [*const c_void; 3];

/// What the arrays of one export share: freed when the last of them is released, the outermost one included.
struct Shared {
    _block: Buffer,
    columns: [(ArrowArray, Buffers); ARRAYS],
    children: [*mut ArrowArray; ARRAYS],
    /// The outermost array has no validity.
    no_buffers: Buffers,
    unreleased: AtomicUsize,
}

/// An exported struct array that a consumer may move out; released here if none does.
pub struct Export(Box<ArrowArray>);

// SAFETY: an ArrowArray may be released on any thread, and Export gives out nothing but its address.
unsafe impl Send for Export {}

impl Drop for Export {
    fn drop(&mut self) {
        if let Some(release) = self.0.release {
            // SAFETY: the array was not moved out, so this is its one release.
            unsafe { release(&raw mut *self.0) }
        }
    }
}

impl Export {
    pub fn new(rows: &Rows) -> Self {
        let shared = Box::into_raw(Box::new(Shared {
            _block: rows.block().clone(),
            columns: columns(rows),
            children: [null_mut(); ARRAYS],
            no_buffers: [null(); 3],
            unreleased: AtomicUsize::new(ARRAYS + 1),
        }));
        let mut record = array(rows.rows(), 0, 1, COLUMNS);
        // SAFETY: shared was just made, and nothing else knows of it yet. From here on its address is fixed.
        unsafe {
            for i in 0..ARRAYS {
                let one = &raw mut (*shared).columns[i].0;
                (*one).buffers = (&raw mut (*shared).columns[i].1).cast();
                (*one).private_data = shared.cast();
                (*shared).children[i] = one;
            }
            (*shared).columns[ATTRIBUTES].0.children = &raw mut (*shared).children[ENTRIES];
            (*shared).columns[ENTRIES].0.children = &raw mut (*shared).children[KEYS];
            record.children = (&raw mut (*shared).children).cast();
            record.buffers = (&raw mut (*shared).no_buffers).cast();
        }
        record.private_data = shared.cast();
        Self(Box::new(record))
    }

    /// Where the ArrowArray lies, for as long as this lives.
    pub fn address(&self) -> usize {
        &raw const *self.0 as usize
    }
}

/// Releases an array and those of its children that were not moved out.
unsafe extern "C" fn release(array: *mut ArrowArray) {
    // SAFETY: the consumer passes an array that Export made and that was not released yet, so what it shares is alive.
    unsafe {
        for i in 0..(*array).n_children as usize {
            let child = *(*array).children.add(i);
            if let Some(release) = (*child).release {
                release(child);
            }
        }
        let shared: *mut Shared = (*array).private_data.cast();
        (*array).release = None;
        if (*shared).unreleased.fetch_sub(1, Ordering::AcqRel) == 1 {
            drop(Box::from_raw(shared));
        }
    }
}

/// The arrays of the columns and of what the attributes are made of, in their order, each with its buffers.
fn columns(rows: &Rows) -> [(ArrowArray, Buffers); ARRAYS] {
    let text = |field| {
        let Texts { offsets, values, validity, nulls } = rows.text_column(field);
        let validity = if validity.is_empty() { null() } else { rows.address(validity) };
        (array(rows.rows(), *nulls, 3, 0), [validity, rows.address(offsets), rows.address(values)])
    };
    let number = |column| (array(rows.rows(), 0, 2, 0), [null(), rows.address(&rows.number(column)), null()]);
    let attributes = rows.attribute_column();
    let entries = attributes.entries;
    [
        text(Text::TransactionId),
        text(Text::Currency),
        number(Number::EventTimeNs),
        number(Number::AmountMinor),
        text(Text::CustomerId),
        text(Text::TerminalId),
        text(Text::CardId),
        text(Text::MerchantId),
        text(Text::DeviceId),
        text(Text::IpAddress),
        (array(rows.rows(), 0, 2, 1), [null(), rows.address(&attributes.offsets), null()]),
        number(Number::ArrivalNs),
        number(Number::DeadlineNs),
        (array(entries, 0, 1, 2), [null(); 3]),
        (array(entries, 0, 3, 0), [null(), rows.address(&attributes.key_offsets), rows.address(&attributes.keys)]),
        (array(entries, 0, 2, 0), [null(), rows.address(&attributes.values), null()]),
    ]
}

/// An array whose pointers are yet to be set.
fn array(length: usize, nulls: usize, buffers: usize, children: usize) -> ArrowArray {
    ArrowArray {
        length: length as i64,
        null_count: nulls as i64,
        offset: 0,
        n_buffers: buffers as i64,
        n_children: children as i64,
        buffers: null_mut(),
        children: null_mut(),
        dictionary: null_mut(),
        release: Some(release),
        private_data: null_mut(),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::transaction::Transaction;

    fn export() -> Export {
        let message = Bytes::from_static(b"\x0a\x04\x0a\x02tx\x0a\x05\x3a\x03c-1");
        let batch = Transaction::decode_batch(&message).expect("a valid message");
        let entries: Vec<_> = batch.transactions.iter().map(|one| (one, 7, 0)).collect();
        Export::new(&Rows::new(&entries))
    }

    fn unreleased(array: &ArrowArray) -> usize {
        // SAFETY: the tests ask while an array of the export is alive.
        unsafe { (*array.private_data.cast::<Shared>()).unreleased.load(Ordering::Relaxed) }
    }

    /// Moves an array out, as a consumer does.
    fn take(array: *mut ArrowArray) -> ArrowArray {
        // SAFETY: the tests pass arrays that are alive; the copy takes the place of the original.
        unsafe {
            let moved = array.read();
            (*array).release = None;
            moved
        }
    }

    #[test]
    fn what_nobody_takes_is_released_with_the_export() {
        let export = export();
        assert_eq!(unreleased(&export.0), ARRAYS + 1);
    }

    #[test]
    fn a_child_that_was_moved_out_outlives_its_parent() {
        let mut export = export();
        // SAFETY: the children of a live export; each array is released once.
        unsafe {
            let mut ids = take(*export.0.children);
            let mut record = take(&raw mut *export.0);
            drop(export);
            assert_eq!(unreleased(&record), ARRAYS + 1);
            release(&raw mut record);
            assert!(record.release.is_none());
            assert_eq!(unreleased(&ids), 1);
            let values: *const u8 = (*ids.buffers.add(2)).cast();
            assert_eq!(std::slice::from_raw_parts(values, 2), b"tx");
            release(&raw mut ids);
        }
    }

    #[test]
    fn null_counts_and_validity() {
        let export = export();
        // SAFETY: the children of a live export.
        unsafe {
            let cards = &**export.0.children.add(6);
            assert_eq!((cards.length, cards.null_count), (2, 1));
            assert_eq!(*(*cards.buffers).cast::<u8>(), 0b10);
            let ids = &**export.0.children;
            assert_eq!(ids.null_count, 0);
            assert!((*ids.buffers).is_null());
        }
    }
}
