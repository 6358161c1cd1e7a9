//! The rows of one batch by column, in the layout of Arrow: all in one block of memory, copied once.

use std::ops::Range;

use arrow_buffer::{Buffer, MutableBuffer};

use crate::digest::DIGEST_BYTES;
use crate::transaction::{TEXTS, Text, Transaction};

/// The 64-bit columns, which lie one after the other at the start of the block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Number {
    EventTimeNs,
    AmountMinor,
    ArrivalNs,
    DeadlineNs,
}

/// How many 64-bit columns there are.
pub const NUMBERS: usize = 4;

const INT64_BYTES: usize = size_of::<i64>();
const OFFSET_BYTES: usize = size_of::<i32>();

/// A transaction of a batch, its arrival and its deadline on the monotonic clock, nanoseconds; deadline 0 = none.
pub type Entry<'a> = (&'a Transaction, i64, i64);

/// The rows of one batch.
#[derive(Debug)]
pub struct Rows {
    rows: usize,
    plain: bool,
    block: Buffer,
    digests: Range<usize>,
    texts: [Texts; TEXTS],
    attributes: Option<Attributes>,
}

/// Where one column of texts lies in the block.
#[derive(Debug, Default)]
pub(crate) struct Texts {
    offsets: Range<usize>,
    values: Range<usize>,
    /// A bit for each row, set where it is not null; empty where no row is.
    validity: Range<usize>,
    pub nulls: usize,
}

/// Where the attributes of all rows lie in the block.
#[derive(Debug)]
pub(crate) struct Attributes {
    pub entries: usize,
    /// Of each row's first entry.
    offsets: Range<usize>,
    key_offsets: Range<usize>,
    keys: Range<usize>,
    values: Range<usize>,
}

impl Rows {
    /// Copies entries into columns. A batch has at most 32 rows, a message at most 1 MiB, so offsets fit in 32 bits.
    pub fn new(entries: &[Entry<'_>]) -> Self {
        let mut block = Block::for_entries(entries);
        block.put_numbers(entries);
        let digests = block.put_each(entries, |(transaction, ..)| transaction.digest);
        let texts = Text::ALL.map(|field| block.put_texts(entries, field));
        let has_attributes = entries.iter().any(|(transaction, ..)| transaction.attributes().len() > 0);
        let attributes = has_attributes.then(|| block.put_attributes(entries));
        Self {
            rows: entries.len(),
            plain: entries.iter().all(|(transaction, ..)| transaction.plain),
            block: block.bytes.into(),
            digests,
            texts,
            attributes,
        }
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Whether every row is plain, see ``Transaction``.
    pub fn plain(&self) -> bool {
        self.plain
    }

    /// The 64-bit columns, in the order of ``Number``.
    pub fn numbers(&self) -> &[u8] {
        &self.block[..NUMBERS * self.rows * INT64_BYTES]
    }

    /// The digest of each row.
    pub fn digests(&self) -> &[[u8; DIGEST_BYTES]] {
        self.block[self.digests.clone()].as_chunks().0
    }

    /// A column of texts, an absent one empty.
    pub fn texts(&self, field: Text) -> impl ExactSizeIterator<Item = &str> {
        let column = &self.texts[field as usize];
        self.strings(&column.offsets, &column.values)
    }

    /// Keys and values of each row; None where no row has any.
    pub fn attributes(&self) -> Option<impl Iterator<Item = impl Iterator<Item = (&str, f64)>>> {
        let column = self.attributes.as_ref()?;
        let values = self.block[column.values.clone()].as_chunks().0;
        let mut entries = self.strings(&column.key_offsets, &column.keys).zip(values);
        Some(self.lengths(&column.offsets).map(move |len| {
            let row: Vec<_> = entries.by_ref().take(len).collect();
            row.into_iter().map(|(key, value)| (key, f64::from_le_bytes(*value)))
        }))
    }

    pub(crate) fn number(&self, column: Number) -> Buffer {
        let bytes = self.rows * INT64_BYTES;
        self.block.slice_with_length(column as usize * bytes, bytes)
    }

    pub(crate) fn text_column(&self, field: Text) -> &Texts {
        &self.texts[field as usize]
    }

    pub(crate) fn attribute_column(&self) -> Option<&Attributes> {
        self.attributes.as_ref()
    }

    pub(crate) fn part(&self, range: &Range<usize>) -> Buffer {
        self.block.slice_with_length(range.start, range.len())
    }

    fn strings<'a>(&'a self, offsets: &Range<usize>, values: &Range<usize>) -> impl ExactSizeIterator<Item = &'a str> {
        let values = &self.block[values.clone()];
        let mut start = 0;
        self.lengths(offsets).map(move |len| {
            let text = &values[start..start + len];
            start += len;
            // SAFETY: put_texts and put_attributes copy whole strs, and offsets lie between them.
            unsafe { str::from_utf8_unchecked(text) }
        })
    }

    fn lengths<'a>(&'a self, offsets: &Range<usize>) -> impl ExactSizeIterator<Item = usize> + use<'a> {
        let (offsets, _) = self.block[offsets.clone()].as_chunks::<OFFSET_BYTES>();
        offsets.windows(2).map(|pair| (i32::from_le_bytes(pair[1]) - i32::from_le_bytes(pair[0])) as usize)
    }
}

impl Texts {
    pub fn offsets(&self) -> &Range<usize> {
        &self.offsets
    }

    pub fn values(&self) -> &Range<usize> {
        &self.values
    }

    pub fn validity(&self) -> Option<&Range<usize>> {
        (self.nulls > 0).then_some(&self.validity)
    }
}

impl Attributes {
    pub fn offsets(&self) -> &Range<usize> {
        &self.offsets
    }

    pub fn key_offsets(&self) -> &Range<usize> {
        &self.key_offsets
    }

    pub fn keys(&self) -> &Range<usize> {
        &self.keys
    }

    pub fn values(&self) -> &Range<usize> {
        &self.values
    }
}

/// The block while it is written. Parts start at multiples of eight bytes.
struct Block {
    bytes: MutableBuffer,
}

impl Block {
    /// Room for all but the attributes.
    fn for_entries(entries: &[Entry<'_>]) -> Self {
        let rows = entries.len();
        let texts_bytes: usize = entries.iter().map(|(transaction, ..)| transaction.texts_bytes()).sum();
        let row_bytes = NUMBERS * INT64_BYTES + DIGEST_BYTES + TEXTS * (OFFSET_BYTES + 1);
        let slack = TEXTS * (OFFSET_BYTES + 3 * INT64_BYTES); // one offset more than rows, and three parts aligned
        Self { bytes: MutableBuffer::with_capacity(rows * row_bytes + texts_bytes + slack) }
    }

    fn put_numbers(&mut self, entries: &[Entry<'_>]) {
        self.put_each(entries, |(transaction, ..)| transaction.event_time_ns.to_le_bytes());
        self.put_each(entries, |(transaction, ..)| transaction.amount_minor.to_le_bytes());
        self.put_each(entries, |(_, arrival_ns, _)| arrival_ns.to_le_bytes());
        self.put_each(entries, |(.., deadline_ns)| deadline_ns.to_le_bytes());
    }

    fn put_texts(&mut self, entries: &[Entry<'_>], field: Text) -> Texts {
        let optional = !matches!(field, Text::TransactionId | Text::Currency);
        let offsets = self.put_offsets(entries, |(transaction, ..)| transaction.text(field).len());
        let nulls = entries.iter().filter(|(transaction, ..)| optional && transaction.text(field).is_empty()).count();
        let validity = match nulls {
            0 => 0..0,
            _ => self.put_bits(entries, |(transaction, ..)| !transaction.text(field).is_empty()),
        };
        let start = self.align();
        for (transaction, ..) in entries {
            self.bytes.extend_from_slice(transaction.text(field).as_bytes());
        }
        Texts { offsets, values: start..self.bytes.len(), validity, nulls }
    }

    fn put_attributes(&mut self, entries: &[Entry<'_>]) -> Attributes {
        let offsets = self.put_offsets(entries, |(transaction, ..)| transaction.attributes().len());
        let pairs: Vec<_> = entries.iter().flat_map(|(transaction, ..)| transaction.attributes()).collect();
        let key_offsets = self.put_offsets(&pairs, |(key, _)| key.len());
        let values = self.put_each(&pairs, |(_, value)| value.to_le_bytes());
        let start = self.align();
        for (key, _) in &pairs {
            self.bytes.extend_from_slice(key.as_bytes());
        }
        Attributes { entries: pairs.len(), offsets, key_offsets, keys: start..self.bytes.len(), values }
    }

    /// Running sums of lengths, from 0.
    fn put_offsets<T>(&mut self, items: &[T], len: impl Fn(&T) -> usize) -> Range<usize> {
        let start = self.align();
        let mut end = 0;
        self.bytes.push(end);
        for item in items {
            end += len(item) as i32;
            self.bytes.push(end);
        }
        start..self.bytes.len()
    }

    fn put_bits<T>(&mut self, items: &[T], bit: impl Fn(&T) -> bool) -> Range<usize> {
        let start = self.align();
        for eight in items.chunks(8) {
            self.bytes.push(eight.iter().rev().fold(0_u8, |bits, item| bits << 1 | u8::from(bit(item))));
        }
        start..self.bytes.len()
    }

    fn put_each<T, const N: usize>(&mut self, items: &[T], bytes: impl Fn(&T) -> [u8; N]) -> Range<usize> {
        let start = self.align();
        for item in items {
            self.bytes.extend_from_slice(&bytes(item));
        }
        start..self.bytes.len()
    }

    fn align(&mut self) -> usize {
        self.bytes.resize(self.bytes.len().next_multiple_of(INT64_BYTES), 0);
        self.bytes.len()
    }
}
