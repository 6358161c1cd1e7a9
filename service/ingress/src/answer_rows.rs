//! Answer rows as Python writes them: ``transaction.ANSWER_DTYPE``, packed, little-endian.

use std::collections::HashMap;
use std::fmt;

/// Bytes of one row.
pub const ROW_BYTES: usize = 73;

/// Where the decision of a row stands.
pub const DECISION_AT: usize = 1;
pub const FALLBACK_AT: usize = 2;

/// The name, the NumPy type and the offset of each field.
const FIELDS: [(&str, &str, usize); 16] = [
    ("status", "|u1", 0),
    ("decision", "|u1", DECISION_AT),
    ("fallback", "|u1", FALLBACK_AT),
    ("scored", "|b1", 3),
    ("score", "<f4", 4),
    ("replayed", "|b1", 8),
    ("error_field", "<u2", 9),
    ("batch_rows", "<u2", 11),
    ("edition", "<u4", 13),
    ("rules", "<u8", 17),
    ("sequence", "<i8", 25),
    ("arrival_ns", "<i8", 33),
    ("taken_up_ns", "<i8", 41),
    ("gathered_ns", "<i8", 49),
    ("inferred_ns", "<i8", 57),
    ("answered_ns", "<i8", 65),
];

/// What became of one transaction. Fields as ``transaction.ANSWER_DTYPE`` says.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct AnswerRow {
    /// A google.rpc.Code.
    pub status: u8,
    pub decision: u8,
    pub fallback: u8,
    pub scored: bool,
    pub score: f32,
    pub replayed: bool,
    pub error_field: u16,
    pub batch_rows: u16,
    pub edition: u32,
    pub rules: u64,
    pub sequence: i64,
    pub arrival_ns: i64,
    pub taken_up_ns: i64,
    pub gathered_ns: i64,
    pub inferred_ns: i64,
    pub answered_ns: i64,
}

impl AnswerRow {
    /// Reads one row.
    pub fn read(row: &[u8; ROW_BYTES]) -> Self {
        let mut rest = row.as_slice();
        Self {
            status: u8::from_le_bytes(take(&mut rest)),
            decision: u8::from_le_bytes(take(&mut rest)),
            fallback: u8::from_le_bytes(take(&mut rest)),
            scored: u8::from_le_bytes(take(&mut rest)) != 0,
            score: f32::from_le_bytes(take(&mut rest)),
            replayed: u8::from_le_bytes(take(&mut rest)) != 0,
            error_field: u16::from_le_bytes(take(&mut rest)),
            batch_rows: u16::from_le_bytes(take(&mut rest)),
            edition: u32::from_le_bytes(take(&mut rest)),
            rules: u64::from_le_bytes(take(&mut rest)),
            sequence: i64::from_le_bytes(take(&mut rest)),
            arrival_ns: i64::from_le_bytes(take(&mut rest)),
            taken_up_ns: i64::from_le_bytes(take(&mut rest)),
            gathered_ns: i64::from_le_bytes(take(&mut rest)),
            inferred_ns: i64::from_le_bytes(take(&mut rest)),
            answered_ns: i64::from_le_bytes(take(&mut rest)),
        }
    }

    /// Writes one row.
    pub fn write(&self, row: &mut [u8; ROW_BYTES]) {
        let mut rest = row.as_mut_slice();
        put(&mut rest, self.status.to_le_bytes());
        put(&mut rest, self.decision.to_le_bytes());
        put(&mut rest, self.fallback.to_le_bytes());
        put(&mut rest, u8::from(self.scored).to_le_bytes());
        put(&mut rest, self.score.to_le_bytes());
        put(&mut rest, u8::from(self.replayed).to_le_bytes());
        put(&mut rest, self.error_field.to_le_bytes());
        put(&mut rest, self.batch_rows.to_le_bytes());
        put(&mut rest, self.edition.to_le_bytes());
        put(&mut rest, self.rules.to_le_bytes());
        put(&mut rest, self.sequence.to_le_bytes());
        put(&mut rest, self.arrival_ns.to_le_bytes());
        put(&mut rest, self.taken_up_ns.to_le_bytes());
        put(&mut rest, self.gathered_ns.to_le_bytes());
        put(&mut rest, self.inferred_ns.to_le_bytes());
        put(&mut rest, self.answered_ns.to_le_bytes());
    }

    /// Reads all rows of a buffer; None where it does not hold whole rows.
    pub fn read_all(buffer: &[u8]) -> Option<Vec<Self>> {
        let (rows, rest) = buffer.as_chunks();
        rest.is_empty().then(|| rows.iter().map(Self::read).collect())
    }

    /// True where the row holds a decision.
    pub fn is_decided(&self) -> bool {
        self.status == 0
    }

    /// What its tail is known by.
    pub fn key(&self) -> (u32, u64) {
        (self.edition, self.rules)
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    let (head, tail) = rest.split_first_chunk().expect("the fields of a row add up to ROW_BYTES");
    *rest = tail;
    *head
}

fn put<const N: usize>(rest: &mut &mut [u8], bytes: [u8; N]) {
    let (head, tail) = std::mem::take(rest).split_first_chunk_mut().expect("the fields of a row add up to ROW_BYTES");
    *head = bytes;
    *rest = tail;
}

/// Python writes rows of another layout than this crate reads.
#[derive(Debug, PartialEq, Eq)]
pub struct LayoutDiffers(String);

impl fmt::Display for LayoutDiffers {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ANSWER_DTYPE and this build disagree: {}; rebuild fraudgate-ingress", self.0)
    }
}

impl std::error::Error for LayoutDiffers {}

/// Holds Python's layout, (NumPy type, offset) by field, against the one read here.
pub fn check_layout(row_bytes: usize, fields: &HashMap<String, (String, usize)>) -> Result<(), LayoutDiffers> {
    for (name, kind, offset) in FIELDS {
        match fields.get(name) {
            Some((found, at)) if found == kind && *at == offset => {}
            Some((found, at)) => {
                return Err(LayoutDiffers(format!("{name} is {found} at {at}, not {kind} at {offset}")));
            }
            None => return Err(LayoutDiffers(format!("there is no {name}"))),
        }
    }
    if fields.len() != FIELDS.len() || row_bytes != ROW_BYTES {
        return Err(LayoutDiffers(format!("{} fields in {row_bytes} bytes", fields.len())));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_lie_where_the_table_says() {
        let mut bytes = [0; ROW_BYTES];
        for (i, (_, _, offset)) in FIELDS.into_iter().enumerate() {
            bytes[offset] = i as u8 + 1;
        }
        let row = AnswerRow::read(&bytes);
        assert_eq!((row.status, row.decision, row.fallback, row.scored), (1, 2, 3, true));
        assert_eq!((row.score.to_bits(), row.replayed, row.error_field, row.batch_rows), (5, true, 7, 8));
        assert_eq!((row.edition, row.rules, row.sequence, row.arrival_ns), (9, 10, 11, 12));
        assert_eq!((row.taken_up_ns, row.gathered_ns, row.inferred_ns, row.answered_ns), (13, 14, 15, 16));
        let mut written = [0; ROW_BYTES];
        row.write(&mut written);
        assert_eq!(AnswerRow::read(&written), row);
    }

    #[test]
    fn a_buffer_holds_whole_rows() {
        assert_eq!(AnswerRow::read_all(&[]), Some(vec![]));
        assert_eq!(AnswerRow::read_all(&[0; 2 * ROW_BYTES]).map(|rows| rows.len()), Some(2));
        assert_eq!(AnswerRow::read_all(&[0; ROW_BYTES + 1]), None);
    }
}
