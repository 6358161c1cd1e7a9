//! The 128-bit digest that says whether two payloads are equal: fields in field-number order, joined by U+001F, which
//! no valid field contains; attributes by key, their values in IEEE bits.

use blake2::digest::consts::U16;
use blake2::{Blake2b, Digest};

/// Bytes of a digest.
pub const DIGEST_BYTES: usize = 16;

const SEPARATOR: u8 = 0x1f;
const PIECES_BYTES: usize = 512;

/// Collects a payload's fields and digests them.
///
/// Fields gather in a buffer that holds an ordinary payload whole, so that the hash runs once.
pub struct Payload {
    hash: Blake2b<U16>,
    pieces: [u8; PIECES_BYTES],
    len: usize,
    empty: bool,
}

impl Payload {
    pub fn new() -> Self {
        Self { hash: Blake2b::new(), pieces: [0; PIECES_BYTES], len: 0, empty: true }
    }

    /// Adds a text, after a separator unless it is the first field.
    #[inline]
    pub fn text(&mut self, text: &[u8]) {
        if !self.empty {
            self.push(&[SEPARATOR]);
        }
        self.empty = false;
        self.push(text);
    }

    /// Adds a number in decimal.
    #[inline]
    pub fn number(&mut self, number: i64) {
        let mut digits = [0; 20];
        self.text(decimal(number, &mut digits));
    }

    /// Adds the bits of a float, as the hexadecimal form of its little-endian bytes.
    pub fn bits(&mut self, value: f64) {
        let mut text = [0; 16];
        for (pair, byte) in text.chunks_exact_mut(2).zip(value.to_bits().to_le_bytes()) {
            pair[0] = hex_digit(byte >> 4);
            pair[1] = hex_digit(byte & 15);
        }
        self.text(&text);
    }

    pub fn digest(mut self) -> [u8; DIGEST_BYTES] {
        self.hash.update(&self.pieces[..self.len]);
        self.hash.finalize().into()
    }

    #[inline]
    fn push(&mut self, piece: &[u8]) {
        if piece.len() > PIECES_BYTES - self.len {
            self.hash.update(&self.pieces[..self.len]);
            self.len = 0;
            if piece.len() > PIECES_BYTES {
                return self.hash.update(piece);
            }
        }
        self.pieces[self.len..self.len + piece.len()].copy_from_slice(piece);
        self.len += piece.len();
    }
}

impl Default for Payload {
    fn default() -> Self {
        Self::new()
    }
}

fn decimal(number: i64, digits: &mut [u8; 20]) -> &[u8] {
    let mut rest = number.unsigned_abs();
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if number < 0 {
        start -= 1; // 19 digits at most, so there is room
        digits[start] = b'-';
    }
    &digits[start..]
}

fn hex_digit(value: u8) -> u8 {
    b"0123456789abcdef"[usize::from(value)]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_payload_is_its_fields_joined(texts in prop::collection::vec(".{0,300}", 0..8), number in any::<i64>()) {
            let mut payload = Payload::new();
            payload.number(number);
            texts.iter().for_each(|text| payload.text(text.as_bytes()));
            let joined = texts.iter().fold(number.to_string(), |joined, text| joined + "\x1f" + text);
            let expected: [u8; DIGEST_BYTES] = Blake2b::<U16>::digest(joined).into();
            prop_assert_eq!(payload.digest(), expected);
        }
    }

    #[test]
    fn numbers_at_the_ends() {
        for number in [i64::MIN, -1, 0, 9, 10, i64::MAX] {
            assert_eq!(decimal(number, &mut [0; 20]), number.to_string().as_bytes());
        }
    }

    #[test]
    fn an_empty_first_field_still_takes_a_separator_after_it() {
        let digest_of = |texts: &[&[u8]]| {
            let mut payload = Payload::new();
            texts.iter().for_each(|text| payload.text(text));
            payload.digest()
        };
        assert_ne!(digest_of(&[b"", b"a"]), digest_of(&[b"a"]));
        assert_ne!(digest_of(&[b"", b"a"]), digest_of(&[b"a", b""]));
    }
}
