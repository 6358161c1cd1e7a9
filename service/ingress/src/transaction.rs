//! One decoded transaction: the message it came in, and where in it the texts lie. Decoding copies no text.

use bytes::Bytes;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::decoding::Draft;
use crate::digest::DIGEST_BYTES;
pub use crate::wire::Undecodable;
use crate::wire::{Reader, Span, delimited_tag};

/// Stands where event_time is absent or malformed.
pub const EVENT_TIME_MISSING_NS: i64 = i64::MIN;
/// Stands where event_time does not fit in 64-bit nanoseconds.
pub const EVENT_TIME_OUTSIDE_NS: i64 = i64::MAX;
/// Bytes that a clean id has at most.
pub const ID_BYTES_MAX: usize = 64;
/// Rows that a ScoreBatch may have; the ones after are counted, not kept.
pub const SCORE_BATCH_ROWS_MAX: usize = 512;

/// What a whole transaction of the longest ids and the most attributes is near: a larger message is mostly something else.
const LARGE_BYTES: usize = 4 << 10;
/// Bytes that are kept of a text of a large message: many more than are ever taken.
const TEXT_KEPT_BYTES: usize = 1 << 10;
/// Attributes that are kept of one: more than are ever taken.
pub(crate) const ATTRIBUTES_KEPT: usize = 65;

const TRANSACTION_TAG: u32 = delimited_tag(1); // of ScoreRequest and of ScoreBatchRequest

/// The texts of a transaction, in the order of the columns: the two required ones, then ``transaction.ENTITIES``.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Text {
    TransactionId,
    Currency,
    CustomerId,
    TerminalId,
    CardId,
    MerchantId,
    DeviceId,
    IpAddress,
}

/// How many texts a transaction has.
pub const TEXTS: usize = 8;

impl Text {
    pub const ALL: [Text; TEXTS] = [
        Text::TransactionId,
        Text::Currency,
        Text::CustomerId,
        Text::TerminalId,
        Text::CardId,
        Text::MerchantId,
        Text::DeviceId,
        Text::IpAddress,
    ];
}

/// A request-time feature: a key within the message, and its value.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attribute {
    pub key: Span,
    pub value: f64,
}

/// A decoded transaction.
#[pyclass(frozen, module = "fraudgate_ingress")]
#[derive(Debug, Clone)]
pub struct Transaction {
    pub(crate) message: Bytes,
    /// UTF-8, as are the attributes' keys.
    pub(crate) texts: [Span; TEXTS],
    /// By key, each key once; None where there are none.
    pub(crate) attributes: Option<Box<[Attribute]>>,
    /// Nanoseconds since 1970, or one of the two sentinels.
    #[pyo3(get)]
    pub event_time_ns: i64,
    #[pyo3(get)]
    pub amount_minor: i64,
    /// Every id is surely fine: printable ASCII, at most 64 bytes, and there is a transaction_id. The currency does not
    /// count.
    #[pyo3(get)]
    pub plain: bool,
    /// Of the canonical fields; equal digests mean equal payloads.
    pub digest: [u8; DIGEST_BYTES],
}

/// The rows of a ScoreBatchRequest.
#[derive(Debug)]
pub struct ScoreBatch {
    /// At most ``SCORE_BATCH_ROWS_MAX``.
    pub transactions: Vec<Transaction>,
    /// How many there were.
    pub rows: usize,
}

impl Transaction {
    /// Decodes a ScoreRequest; None where it holds no transaction.
    pub fn decode_request(message: &Bytes) -> Result<Option<Self>, Undecodable> {
        let mut found: Option<Draft> = None;
        let mut reader = Reader::new(message)?;
        while let Some(tag) = reader.next_tag()? {
            if tag == TRANSACTION_TAG {
                let span = reader.delimited()?;
                found.get_or_insert_default().merge(reader.open(span)?)?;
            } else {
                reader.skip(tag)?;
            }
        }
        Ok(found.map(|draft| draft.finish(message)))
    }

    /// Decodes a ScoreBatchRequest.
    pub fn decode_batch(message: &Bytes) -> Result<ScoreBatch, Undecodable> {
        let mut batch = ScoreBatch { transactions: Vec::new(), rows: 0 };
        let mut reader = Reader::new(message)?;
        while let Some(tag) = reader.next_tag()? {
            if tag == TRANSACTION_TAG {
                let span = reader.delimited()?;
                let mut draft = Draft::default();
                draft.merge(reader.open(span)?)?;
                batch.rows += 1;
                if batch.rows <= SCORE_BATCH_ROWS_MAX {
                    batch.transactions.push(draft.finish(message));
                }
            } else {
                reader.skip(tag)?;
            }
        }
        Ok(batch)
    }

    /// What a request without a transaction stands for where its absence is no refusal.
    pub fn empty() -> Self {
        Draft::default().finish(&Bytes::new())
    }

    /// The same without its message where that is large: a kilobyte may unpack to a megabyte, and that would wait with the
    /// row and go to Python. Of a text that is too long, or too many attributes, enough is kept to be refused for it.
    pub fn slimmed(self) -> Self {
        if self.message.len() <= LARGE_BYTES {
            return self;
        }
        let mut kept = Vec::new();
        let mut keep = |span| {
            let text = beginning(self.str_at(span));
            kept.extend_from_slice(text.as_bytes());
            Span::new(kept.len() - text.len(), text.len())
        };
        let texts = self.texts.map(&mut keep);
        let attributes = self.attributes.as_deref().map(|attributes| {
            let first = attributes.iter().take(ATTRIBUTES_KEPT);
            first.map(|attribute| Attribute { key: keep(attribute.key), ..*attribute }).collect()
        });
        Self { message: kept.into(), texts, attributes, ..self }
    }

    #[inline]
    pub fn text(&self, field: Text) -> &str {
        self.str_at(self.texts[field as usize])
    }

    pub fn id(&self) -> &str {
        self.text(Text::TransactionId)
    }

    /// Bytes of all texts together.
    pub fn texts_bytes(&self) -> usize {
        self.texts.iter().map(|span| span.len()).sum()
    }

    /// Keys and values, by key.
    pub fn attributes(&self) -> impl ExactSizeIterator<Item = (&str, f64)> {
        let attributes = self.attributes.as_deref().unwrap_or_default();
        attributes.iter().map(|attribute| (self.str_at(attribute.key), attribute.value))
    }

    #[inline]
    fn str_at(&self, span: Span) -> &str {
        let text = span.of(&self.message);
        // SAFETY: Draft checks that texts and keys are UTF-8 before it keeps their spans, `slimmed` copies whole strs, and
        // nobody else makes spans; Bytes never change.
        unsafe { str::from_utf8_unchecked(text) }
    }
}

/// As much of a text as is kept, whole characters.
fn beginning(text: &str) -> &str {
    let end = (0..=text.len().min(TEXT_KEPT_BYTES)).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}

/// Decodes a ScoreRequest; None where it holds no transaction. ValueError: the bytes do not decode.
#[pyfunction]
fn decode_request(message: &[u8]) -> PyResult<Option<Transaction>> {
    Transaction::decode_request(&Bytes::copy_from_slice(message)).map_err(refused)
}

/// Decodes a ScoreBatchRequest to its first 512 rows and the count of all. ValueError: the bytes do not decode.
#[pyfunction]
fn decode_batch(message: &[u8]) -> PyResult<(Vec<Transaction>, usize)> {
    let batch = Transaction::decode_batch(&Bytes::copy_from_slice(message)).map_err(refused)?;
    Ok((batch.transactions, batch.rows))
}

fn refused(error: Undecodable) -> PyErr {
    PyValueError::new_err(error.to_string())
}

#[pymethods]
impl Transaction {
    /// All texts, in the order of the columns; an absent one is empty.
    #[getter]
    fn texts(&self) -> [&str; TEXTS] {
        Text::ALL.map(|field| self.text(field))
    }

    #[getter(attributes)]
    fn attribute_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        self.attributes().try_for_each(|(key, value)| dict.set_item(key, value))?;
        Ok(dict)
    }

    #[getter(digest)]
    fn digest_bytes<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.digest)
    }
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Transaction>()?;
    module.add("SCORE_BATCH_ROWS_MAX", SCORE_BATCH_ROWS_MAX)?;
    module.add_function(wrap_pyfunction!(decode_request, module)?)?;
    module.add_function(wrap_pyfunction!(decode_batch, module)?)
}

#[cfg(test)]
mod tests {
    use prost::encoding as wire;

    use super::*;

    /// A transaction of these texts, with attributes of these keys, in a message with so much that nobody knows.
    fn transaction(texts: &[(u32, &str)], keys: &[String], unknown_bytes: usize) -> Transaction {
        let (mut body, mut message) = (Vec::new(), Vec::new());
        for (number, text) in texts {
            wire::string::encode(*number, &(*text).to_owned(), &mut body);
        }
        for key in keys {
            let mut entry = Vec::new();
            wire::string::encode(1, key, &mut entry);
            wire::bytes::encode(11, &entry, &mut body);
        }
        wire::bytes::encode(1, &body, &mut message);
        wire::bytes::encode(15, &vec![7; unknown_bytes], &mut message);
        Transaction::decode_request(&message.into()).expect("it decodes").expect("it is there")
    }

    fn keys(count: usize, bytes: usize) -> Vec<String> {
        (0..count).map(|number| format!("{number:0bytes$}")).collect()
    }

    #[test]
    fn what_may_be_taken_is_kept_whole_of_a_large_message() {
        let text = "é".repeat(ID_BYTES_MAX / 2);
        let all: Vec<_> = [1, 4, 5, 6, 7, 8, 9, 10].map(|number| (number, text.as_str())).into();
        let whole = transaction(&all, &keys(ATTRIBUTES_KEPT - 1, ID_BYTES_MAX), 1 << 20);
        let slim = whole.clone().slimmed();
        assert!(slim.message.len() < 2 * LARGE_BYTES);
        assert_eq!((slim.texts(), slim.digest, slim.plain), (whole.texts(), whole.digest, whole.plain));
        assert!(slim.attributes().eq(whole.attributes()));
        assert_eq!((slim.attributes().len(), slim.amount_minor), (ATTRIBUTES_KEPT - 1, whole.amount_minor));
    }

    #[test]
    fn what_is_too_much_stays_too_much_and_becomes_small() {
        let long = "é".repeat(1 << 18);
        let slim = transaction(&[(1, &long), (7, &"x".repeat(TEXT_KEPT_BYTES))], &keys(3_000, 2_000), 0).slimmed();
        assert!(long.starts_with(slim.id()) && slim.id().len() == TEXT_KEPT_BYTES);
        assert_eq!(slim.text(Text::CardId).len(), TEXT_KEPT_BYTES);
        assert_eq!(slim.attributes().len(), ATTRIBUTES_KEPT);
        assert!(slim.attributes().all(|(key, _)| key.len() == TEXT_KEPT_BYTES));
        assert!(slim.message.len() <= (TEXTS + ATTRIBUTES_KEPT) * TEXT_KEPT_BYTES);
        assert_eq!(beginning(&("x".to_owned() + &long)).len(), TEXT_KEPT_BYTES - 1, "no half of a character");
    }

    #[test]
    fn a_small_message_is_left_alone() {
        let whole = transaction(&[(1, &"x".repeat(LARGE_BYTES / 2))], &keys(ATTRIBUTES_KEPT + 5, 8), 0);
        let message = whole.message.clone();
        assert_eq!(whole.slimmed().message.as_ptr(), message.as_ptr());
    }
}
