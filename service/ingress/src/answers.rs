//! Answer rows to the bytes that clients get, as ``fraudgate.frontend.codec.Renderer`` makes them.
//!
//! What varies from row to row (the head) is written here; what an edition and a bit set fix (the tail: reasons, rules
//! fired, model, rule-set version) comes encoded from Python, once. Protobuf defines the concatenation of two encodings
//! as their merge, so head + tail is the whole message.

use std::collections::HashMap;
use std::fmt;
use std::io::Write;

use bytes::{BufMut, Bytes, BytesMut};
use prost::encoding::{encode_varint, encoded_len_varint};

use crate::answer_rows::AnswerRow;
pub use crate::renderer::register;
use crate::wire::{delimited_tag, fixed32_tag, varint_tag};

/// Tails that are kept: every combination that fires in practice; a bound all the same.
pub const TAILS_MAX: usize = 4096;

/// What the rules and the engine of a decision fix: its edition and its bit set.
type Key = (u32, u64);

#[derive(Debug)]
struct Tail {
    run_id: Box<str>,
    body: Bytes,
}

/// The tails known so far, by edition and bit set, each beside its edition's run id.
///
/// Two generations: when the young one is full it becomes the old one, so that what a batch was given is still there
/// while that batch is rendered on another thread.
#[derive(Debug, Default)]
pub struct Tails {
    known: HashMap<Key, Tail>,
    before: HashMap<Key, Tail>,
}

impl Tails {
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether ``missing`` has anything to say of these rows.
    pub fn lacks(&self, rows: &[AnswerRow]) -> bool {
        rows.iter().any(|row| row.is_decided() && !self.known.contains_key(&row.key()))
    }

    /// The (edition, rules) of decided rows that ``put`` has yet to give, each once.
    pub fn missing(&mut self, rows: &[AnswerRow]) -> Vec<Key> {
        let missing = self.unknown(rows);
        if self.known.len() + missing.len() <= TAILS_MAX {
            return missing;
        }
        self.before = std::mem::take(&mut self.known);
        self.unknown(rows)
    }

    /// Keeps the encoded tail of (edition, rules) and the edition's run id.
    pub fn put(&mut self, edition: u32, rules: u64, run_id: &str, body: Bytes) {
        self.known.insert((edition, rules), Tail { run_id: run_id.into(), body });
    }

    fn get(&self, key: Key) -> Option<&Tail> {
        self.known.get(&key).or_else(|| self.before.get(&key))
    }

    fn unknown(&self, rows: &[AnswerRow]) -> Vec<Key> {
        let mut missing = Vec::new();
        for row in rows.iter().filter(|row| row.is_decided() && !self.known.contains_key(&row.key())) {
            if !missing.contains(&row.key()) {
                missing.push(row.key());
            }
        }
        missing
    }
}

/// The tail of a row was never put: a mistake of ours, told apart from a panic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TailMissing;

impl fmt::Display for TailMissing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the tail of a decided row is not there")
    }
}

impl std::error::Error for TailMissing {}

/// The fields of a ScoreResponse that the head holds.
mod tags {
    use super::*;
    pub const TRANSACTION_ID: u32 = delimited_tag(1);
    pub const DECISION: u32 = varint_tag(2);
    pub const SCORE: u32 = fixed32_tag(3);
    pub const FALLBACK: u32 = varint_tag(8);
    pub const DECISION_ID: u32 = delimited_tag(9);
    pub const TIMINGS: u32 = delimited_tag(10);
    /// Of ScoreResult.
    pub const RESULT_RESPONSE: u32 = delimited_tag(2);
    pub const RESULT_ERROR: u32 = delimited_tag(3);
}

const SMALL_FIELDS_BYTES_MAX: usize = 2 + 5 + 2; // decision and fallback below 128, score
const SEQUENCE_BYTES_MAX: usize = 18; // "-", sign, 16 hexadecimal digits
const TIMINGS_BYTES_MAX: usize = 5 * 11 + 4; // five int64 and an uint16

/// Appends the ScoreResponse of a decided row, without gRPC's framing.
///
/// The row's tail must have been put. Fields of value 0 are left out, as protobuf does, but for the score, which has
/// presence.
pub fn render(row: &AnswerRow, transaction_id: &str, tails: &Tails, out: &mut BytesMut) -> Result<(), TailMissing> {
    let tail = tails.get(row.key()).ok_or(TailMissing)?;
    let texts_bytes = transaction_id.len() + tail.run_id.len() + tail.body.len();
    out.reserve(texts_bytes + SMALL_FIELDS_BYTES_MAX + SEQUENCE_BYTES_MAX + TIMINGS_BYTES_MAX + 24); // tags, sizes
    put_text(tags::TRANSACTION_ID, transaction_id.as_bytes(), out);
    put_number(tags::DECISION, row.decision.into(), out);
    if row.scored {
        put_tag(tags::SCORE, out);
        out.put_f32_le(row.score);
    }
    put_number(tags::FALLBACK, row.fallback.into(), out);
    put_decision_id(&tail.run_id, row.sequence, out);
    put_timings(row, out);
    out.put_slice(&tail.body);
    Ok(())
}

/// How one row of a ScoreBatch or a ScoreStream ended.
#[derive(Debug, Clone, Copy)]
pub enum End<'a> {
    /// With an encoded ScoreResponse.
    Response(&'a [u8]),
    /// With an encoded google.rpc.Status.
    Error(&'a [u8]),
}

/// Appends a ScoreResult.
pub fn result(transaction_id: &str, end: End<'_>, out: &mut BytesMut) {
    put_text(tags::TRANSACTION_ID, transaction_id.as_bytes(), out);
    let (tag, body) = match end {
        End::Response(body) => (tags::RESULT_RESPONSE, body),
        End::Error(body) => (tags::RESULT_ERROR, body),
    };
    put_bytes(tag, body, out);
}

/// Bytes that ``result`` appends.
pub fn result_bytes(transaction_id: &str, end: End<'_>) -> usize {
    let (End::Response(body) | End::Error(body)) = end;
    let id = if transaction_id.is_empty() { 0 } else { delimited_bytes(transaction_id.len()) };
    id + delimited_bytes(body.len())
}

/// Appends an encoded ScoreResult as one entry of a ScoreBatchResponse.
pub fn batch_entry(result: &[u8], out: &mut BytesMut) {
    put_bytes(delimited_tag(1), result, out);
}

fn put_decision_id(run_id: &str, sequence: i64, out: &mut BytesMut) {
    let mut text = [0; SEQUENCE_BYTES_MAX];
    let mut rest = text.as_mut_slice();
    let sign = if sequence < 0 { "-" } else { "" };
    write!(rest, "-{sign}{:x}", sequence.unsigned_abs()).expect("a dash, a sign and sixteen digits fit");
    let unused = rest.len();
    let sequence = &text[..SEQUENCE_BYTES_MAX - unused];
    put_tag(tags::DECISION_ID, out);
    encode_varint((run_id.len() + sequence.len()) as u64, out);
    out.put_slice(run_id.as_bytes());
    out.put_slice(sequence);
}

fn put_timings(row: &AnswerRow, out: &mut BytesMut) {
    let fields = [
        row.taken_up_ns.wrapping_sub(row.arrival_ns),
        row.gathered_ns.wrapping_sub(row.taken_up_ns),
        row.inferred_ns.wrapping_sub(row.gathered_ns),
        row.answered_ns.wrapping_sub(row.inferred_ns),
        row.answered_ns.wrapping_sub(row.arrival_ns),
        row.batch_rows.into(),
    ];
    put_tag(tags::TIMINGS, out);
    let size_at = out.len();
    out.put_u8(0);
    for (field_number, value) in (1..).zip(fields) {
        put_number(varint_tag(field_number), value, out);
    }
    out[size_at] = (out.len() - size_at - 1) as u8; // at most TIMINGS_BYTES_MAX, so one byte of varint
}

fn put_number(tag: u32, value: i64, out: &mut BytesMut) {
    if value != 0 {
        put_tag(tag, out);
        encode_varint(value as u64, out);
    }
}

fn put_text(tag: u32, text: &[u8], out: &mut BytesMut) {
    if !text.is_empty() {
        put_bytes(tag, text, out);
    }
}

fn put_bytes(tag: u32, body: &[u8], out: &mut BytesMut) {
    out.reserve(delimited_bytes(body.len()));
    put_tag(tag, out);
    encode_varint(body.len() as u64, out);
    out.put_slice(body);
}

/// Field numbers up to 15 make tags of one byte.
fn put_tag(tag: u32, out: &mut BytesMut) {
    out.put_u8(tag as u8);
}

fn delimited_bytes(size: usize) -> usize {
    1 + encoded_len_varint(size as u64) + size
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> AnswerRow {
        AnswerRow {
            status: 0,
            decision: 2,
            fallback: 1,
            scored: true,
            score: 0.25,
            replayed: false,
            error_field: 0,
            batch_rows: 3,
            edition: 1,
            rules: 5,
            sequence: 255,
            arrival_ns: 1_000,
            taken_up_ns: 1_010,
            gathered_ns: 1_030,
            inferred_ns: 1_070,
            answered_ns: 1_150,
        }
    }

    fn rendered(row: &AnswerRow, transaction_id: &str) -> Vec<u8> {
        let mut tails = Tails::new();
        tails.put(row.edition, row.rules, "4fe1", Bytes::from_static(b"<tail>"));
        let mut out = BytesMut::new();
        render(row, transaction_id, &tails, &mut out).expect("its tail is there");
        out.to_vec()
    }

    #[test]
    fn a_response() {
        let head = b"\x0a\x02tx\x10\x02\x1d\x00\x00\x80\x3e\x40\x01\x4a\x074fe1-ff";
        let timings = b"\x52\x0d\x08\x0a\x10\x14\x18\x28\x20\x50\x28\x96\x01\x30\x03";
        assert_eq!(rendered(&row(), "tx"), [head.as_slice(), timings, b"<tail>"].concat());
    }

    #[test]
    fn zeros_are_left_out_but_for_the_score() {
        let zero = AnswerRow::read(&[0; crate::answer_rows::ROW_BYTES]);
        assert_eq!(rendered(&zero, ""), b"\x4a\x064fe1-0\x52\x00<tail>");
        let scored = AnswerRow { scored: true, ..zero };
        assert_eq!(rendered(&scored, ""), b"\x1d\x00\x00\x00\x00\x4a\x064fe1-0\x52\x00<tail>");
    }

    #[test]
    fn numbers_at_the_ends_fit() {
        let row =
            AnswerRow { sequence: i64::MIN, arrival_ns: i64::MIN, answered_ns: -1, batch_rows: u16::MAX, ..row() };
        let found = rendered(&row, "tx");
        assert!(found.windows(17).any(|part| part == b"-8000000000000000"));
        assert!(found.ends_with(b"<tail>"));
    }

    #[test]
    fn tails_are_missing_once_and_of_decided_rows_only() {
        let mut tails = Tails::new();
        let refused = AnswerRow { status: 3, rules: 6, ..row() };
        assert!(tails.lacks(&[refused, row()]) && !tails.lacks(&[refused]));
        assert_eq!(tails.missing(&[row(), refused, row()]), [(1, 5)]);
        tails.put(1, 5, "r", Bytes::new());
        assert_eq!((tails.missing(&[row()]).len(), tails.lacks(&[row()])), (0, false));
        assert_eq!(render(&refused, "tx", &tails, &mut BytesMut::new()), Err(TailMissing));
    }

    #[test]
    fn a_flood_of_tails_forgets_none_of_this_batch_and_the_one_before() {
        let mut tails = Tails::new();
        let mut last = Vec::new();
        for first in (0..10 * TAILS_MAX as u64).step_by(1_000) {
            let rows: Vec<_> = (first..first + 1_000).map(|rules| AnswerRow { rules, ..row() }).collect();
            for (edition, rules) in tails.missing(&rows) {
                tails.put(edition, rules, "r", Bytes::new());
            }
            assert_eq!(tails.missing(&rows), []);
            assert!(tails.known.len() <= TAILS_MAX && tails.before.len() <= TAILS_MAX);
            assert!(last.iter().all(|row| render(row, "tx", &tails, &mut BytesMut::new()).is_ok()), "still rendering");
            last = rows;
        }
    }

    #[test]
    fn results_and_entries() {
        let mut out = BytesMut::new();
        result("tx", End::Response(b"body"), &mut out);
        result("", End::Error(b""), &mut out);
        batch_entry(b"result", &mut out);
        assert_eq!(&out[..], b"\x0a\x02tx\x12\x04body\x1a\x00\x0a\x06result");
    }
}
