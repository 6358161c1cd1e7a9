//! The rows of one batch by column, in the layout of Arrow: all in one block of memory, copied once.

use std::ffi::c_void;
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
    attributes: Attributes,
}

/// Where one column of texts lies in the block.
#[derive(Debug, Default)]
pub(crate) struct Texts {
    pub offsets: Range<usize>,
    pub values: Range<usize>,
    /// A bit for each row, set where it is not null; empty where no row is.
    pub validity: Range<usize>,
    pub nulls: usize,
}

/// Where the attributes of all rows lie in the block.
#[derive(Debug)]
pub(crate) struct Attributes {
    pub entries: usize,
    /// Of each row's first entry.
    pub offsets: Range<usize>,
    pub key_offsets: Range<usize>,
    pub keys: Range<usize>,
    pub values: Range<usize>,
}

impl Rows {
    /// Copies entries into columns. A batch has at most 32 rows, a message at most 1 MiB, so offsets fit in 32 bits.
    pub fn new(entries: &[Entry<'_>]) -> Self {
        let mut block = Block::for_entries(entries);
        block.put_numbers(entries);
        let digests = block.put_each(entries, |(transaction, ..)| transaction.digest);
        let texts = Text::ALL.map(|field| block.put_texts(entries, field));
        let attributes = block.put_attributes(entries);
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

    /// One 64-bit column.
    pub fn integers(&self, column: Number) -> impl ExactSizeIterator<Item = i64> {
        let (integers, _) = self.block[self.number(column)].as_chunks();
        integers.iter().map(|bytes| i64::from_le_bytes(*bytes))
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
        let column = &self.attributes;
        if column.entries == 0 {
            return None;
        }
        let values = self.block[column.values.clone()].as_chunks().0;
        let mut entries = self.strings(&column.key_offsets, &column.keys).zip(values);
        Some(self.lengths(&column.offsets).map(move |len| {
            let row: Vec<_> = entries.by_ref().take(len).collect();
            row.into_iter().map(|(key, value)| (key, f64::from_le_bytes(*value)))
        }))
    }

    pub(crate) fn number(&self, column: Number) -> Range<usize> {
        let bytes = self.rows * INT64_BYTES;
        column as usize * bytes..(column as usize + 1) * bytes
    }

    pub(crate) fn text_column(&self, field: Text) -> &Texts {
        &self.texts[field as usize]
    }

    pub(crate) fn attribute_column(&self) -> &Attributes {
        &self.attributes
    }

    /// The memory that all columns lie in.
    pub(crate) fn block(&self) -> &Buffer {
        &self.block
    }

    /// Where a part of the block lies.
    pub(crate) fn address(&self, part: &Range<usize>) -> *const c_void {
        self.block[part.clone()].as_ptr().cast()
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

/// The block while it is written. Parts start at multiples of eight bytes.
struct Block {
    bytes: MutableBuffer,
}

impl Block {
    /// Room for all but attributes.
    fn for_entries(entries: &[Entry<'_>]) -> Self {
        let rows = entries.len();
        let texts_bytes: usize = entries.iter().map(|(transaction, ..)| transaction.texts_bytes()).sum();
        let row_bytes = NUMBERS * INT64_BYTES + DIGEST_BYTES + TEXTS * (OFFSET_BYTES + 1) + OFFSET_BYTES;
        let slack = (TEXTS + 1) * (OFFSET_BYTES + 3 * INT64_BYTES); // an offset more than rows, three parts aligned
        Self { bytes: MutableBuffer::with_capacity(rows * row_bytes + texts_bytes + slack) }
    }

    fn put_numbers(&mut self, entries: &[Entry<'_>]) {
        self.put_each(entries, |(transaction, ..)| transaction.event_time_ns.to_le_bytes());
        self.put_each(entries, |(transaction, ..)| transaction.amount_minor.to_le_bytes());
        self.put_each(entries, |(_, arrival_ns, _)| arrival_ns.to_le_bytes());
        self.put_each(entries, |(.., deadline_ns)| deadline_ns.to_le_bytes());
    }

    fn put_texts(&mut self, entries: &[Entry<'_>], field: Text) -> Texts {
        let (offsets, values) = self.put_strings(entries.len(), entries.iter().map(|(one, ..)| one.text(field)));
        let optional = !matches!(field, Text::TransactionId | Text::Currency);
        let nulls = if optional { entries.iter().filter(|(one, ..)| one.text(field).is_empty()).count() } else { 0 };
        let validity = match nulls {
            0 => 0..0,
            _ => self.put_bits(entries, |(one, ..)| !one.text(field).is_empty()),
        };
        Texts { offsets, values, validity, nulls }
    }

    fn put_attributes(&mut self, entries: &[Entry<'_>]) -> Attributes {
        let offsets = self.put_offsets(entries, |(transaction, ..)| transaction.attributes().len());
        let pairs: Vec<_> = entries.iter().flat_map(|(transaction, ..)| transaction.attributes()).collect();
        let (key_offsets, keys) = self.put_strings(pairs.len(), pairs.iter().map(|(key, _)| *key));
        let values = self.put_each(&pairs, |(_, value)| value.to_le_bytes());
        Attributes { entries: pairs.len(), offsets, key_offsets, keys, values }
    }

    /// Where the offsets of so many texts lie, and where the texts.
    fn put_strings<'a>(&mut self, count: usize, texts: impl Iterator<Item = &'a str>) -> (Range<usize>, Range<usize>) {
        let offsets = self.align();
        let values = offsets + (count + 1) * OFFSET_BYTES;
        self.bytes.resize(values, 0);
        for (i, text) in texts.enumerate() {
            self.bytes.extend_from_slice(text.as_bytes());
            let end = (self.bytes.len() - values) as i32;
            self.bytes[offsets + (i + 1) * OFFSET_BYTES..][..OFFSET_BYTES].copy_from_slice(&end.to_le_bytes());
        }
        (offsets..values, values..self.bytes.len())
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use prost::encoding as wire;

    use super::*;

    type Made = (String, String, i64, Vec<(String, f64)>);

    fn transaction((id, card_id, amount_minor, attributes): &Made) -> Transaction {
        let (mut body, mut message) = (Vec::new(), Vec::new());
        wire::string::encode(1, id, &mut body);
        wire::int64::encode(3, amount_minor, &mut body);
        wire::string::encode(7, card_id, &mut body);
        for (key, value) in attributes {
            let mut entry = Vec::new();
            wire::string::encode(1, key, &mut entry);
            wire::double::encode(2, value, &mut entry);
            wire::bytes::encode(11, &entry, &mut body);
        }
        wire::bytes::encode(1, &body, &mut message);
        Transaction::decode_request(&Bytes::from(message)).expect("it decodes").expect("it is there")
    }

    fn made() -> impl Strategy<Value = Vec<Made>> {
        let attributes = prop_oneof![Just(vec![]), prop::collection::vec((".{0,3}", any::<f64>()), 0..4)];
        prop::collection::vec((".{0,9}", "c{0,2}", any::<i64>(), attributes), 0..34)
    }

    proptest! {
        #[test]
        fn columns_hold_what_the_transactions_held(made in made()) {
            let transactions: Vec<_> = made.iter().map(transaction).collect();
            let entries: Vec<_> = transactions.iter().zip(0..).map(|(one, i)| (one, i, -i)).collect();
            let rows = Rows::new(&entries);
            prop_assert_eq!(rows.rows(), made.len());
            prop_assert_eq!(rows.plain(), transactions.iter().all(|one| one.plain));
            for field in Text::ALL {
                let expected: Vec<_> = transactions.iter().map(|one| one.text(field)).collect();
                prop_assert_eq!(rows.texts(field).collect::<Vec<_>>(), expected);
            }
            let numbers = rows.numbers().as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes));
            let expected = [0, 1, 2, 3].into_iter().flat_map(|column| {
                entries.iter().map(move |(one, arrival, deadline)| [one.event_time_ns, one.amount_minor, *arrival, *deadline][column])
            });
            prop_assert!(numbers.eq(expected));
            prop_assert!(rows.digests().iter().eq(transactions.iter().map(|one| &one.digest)));
            let found: Option<Vec<Vec<_>>> =
                rows.attributes().map(|rows| rows.map(|row| row.map(|(key, value)| (key, value.to_bits())).collect()).collect());
            let expected: Vec<Vec<_>> = transactions.iter().map(|one| one.attributes().map(|(key, value)| (key, value.to_bits())).collect()).collect();
            let any = expected.iter().any(|row| !row.is_empty());
            prop_assert_eq!(found, any.then_some(expected));
        }

        #[test]
        fn nulls_are_the_empty_ids(made in made()) {
            let transactions: Vec<_> = made.iter().map(transaction).collect();
            let entries: Vec<_> = transactions.iter().map(|one| (one, 0, 0)).collect();
            let rows = Rows::new(&entries);
            let cards = rows.text_column(Text::CardId);
            prop_assert_eq!(cards.nulls, made.iter().filter(|(_, card_id, ..)| card_id.is_empty()).count());
            if cards.nulls > 0 {
                let bits = &rows.block()[cards.validity.clone()];
                for (i, (_, card_id, ..)) in made.iter().enumerate() {
                    prop_assert_eq!(bits[i / 8] >> (i % 8) & 1 == 1, !card_id.is_empty());
                }
            }
            prop_assert_eq!(rows.text_column(Text::TransactionId).nulls, 0);
        }
    }

    #[test]
    fn the_block_of_ordinary_rows_is_allocated_once() {
        let one = transaction(&("tx".into(), "c".into(), 5, vec![]));
        let entries = vec![(&one, 0, 0); 32];
        let room = Block::for_entries(&entries).bytes.capacity();
        assert!(Rows::new(&entries).block().len() <= room);
    }
}
