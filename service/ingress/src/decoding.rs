//! Decodes the fields of a Transaction, in whatever order and however often they come.

use bytes::Bytes;

use crate::digest::Payload;
use crate::transaction::{
    ATTRIBUTES_KEPT, Attribute, EVENT_TIME_MISSING_NS, EVENT_TIME_OUTSIDE_NS, ID_BYTES_MAX, TEXTS, Text, Transaction,
};
use crate::wire::{Reader, Span, Undecodable, delimited_tag, fixed64_tag, varint_tag};

const SECOND_NS: i64 = 1_000_000_000;
const SECONDS_MAX: i64 = EVENT_TIME_OUTSIDE_NS / SECOND_NS;

/// So many entries of attributes are kept as they come, then each key once.
const ENTRIES_AT_ONCE: usize = 4_096;

const EVENT_TIME: u32 = delimited_tag(2);
const AMOUNT_MINOR: u32 = varint_tag(3);
const ATTRIBUTES: u32 = delimited_tag(11);

/// The text that a tag stands for.
#[inline]
fn text_of(tag: u32) -> Option<Text> {
    const TRANSACTION_ID: u32 = delimited_tag(1);
    const CURRENCY: u32 = delimited_tag(4);
    const CUSTOMER_ID: u32 = delimited_tag(5);
    const TERMINAL_ID: u32 = delimited_tag(6);
    const CARD_ID: u32 = delimited_tag(7);
    const MERCHANT_ID: u32 = delimited_tag(8);
    const DEVICE_ID: u32 = delimited_tag(9);
    const IP_ADDRESS: u32 = delimited_tag(10);
    match tag {
        TRANSACTION_ID => Some(Text::TransactionId),
        CURRENCY => Some(Text::Currency),
        CUSTOMER_ID => Some(Text::CustomerId),
        TERMINAL_ID => Some(Text::TerminalId),
        CARD_ID => Some(Text::CardId),
        MERCHANT_ID => Some(Text::MerchantId),
        DEVICE_ID => Some(Text::DeviceId),
        IP_ADDRESS => Some(Text::IpAddress),
        _ => None,
    }
}

/// A transaction while its fields are read: the last scalar of a kind counts, messages of a kind are merged.
#[derive(Default)]
pub struct Draft {
    texts: [Span; TEXTS],
    /// Whether each text has a byte that is not printable ASCII.
    odd: [bool; TEXTS],
    event_time: Option<Timestamp>,
    amount_minor: i64,
    attributes: Vec<Attribute>,
    /// There are more attributes than are ever taken: further ones are read, and not kept.
    crowded: bool,
}

impl Draft {
    /// Takes in the fields of one message.
    pub fn merge(&mut self, mut reader: Reader<'_>) -> Result<(), Undecodable> {
        while let Some(tag) = reader.next_tag()? {
            if let Some(field) = text_of(tag) {
                let span = reader.delimited()?;
                self.odd[field as usize] = check_text(reader.value(span))? == Kind::Odd;
                self.texts[field as usize] = span;
                continue;
            }
            match tag {
                EVENT_TIME => {
                    let span = reader.delimited()?;
                    self.event_time.get_or_insert_default().merge(reader.open(span)?)?;
                }
                AMOUNT_MINOR => self.amount_minor = reader.varint()? as i64,
                ATTRIBUTES => {
                    let span = reader.delimited()?;
                    let entry = read_entry(reader.open(span)?)?;
                    if !self.crowded {
                        self.attributes.extend(entry);
                        self.sift(reader.message());
                    }
                }
                _ => reader.skip(tag)?,
            }
        }
        Ok(())
    }

    /// Bound what a message of half a million entries costs: it is enough to know that a row has too many attributes.
    fn sift(&mut self, message: &[u8]) {
        if self.attributes.len() >= ENTRIES_AT_ONCE {
            keep_last_of_each_key(&mut self.attributes, message);
            self.crowded = self.attributes.len() >= ATTRIBUTES_KEPT;
        }
    }

    /// The transaction, of the message that the fields were read from.
    pub fn finish(mut self, message: &Bytes) -> Transaction {
        keep_last_of_each_key(&mut self.attributes, message);
        let mut transaction = Transaction {
            message: message.clone(),
            texts: self.texts,
            attributes: (!self.attributes.is_empty()).then(|| self.attributes.into_boxed_slice()),
            event_time_ns: self.event_time.map_or(EVENT_TIME_MISSING_NS, Timestamp::nanoseconds),
            amount_minor: self.amount_minor,
            plain: is_plain(&self.texts, &self.odd),
            digest: Default::default(),
        };
        transaction.digest = digest(&transaction);
        transaction
    }
}

fn is_plain(texts: &[Span; TEXTS], odd: &[bool; TEXTS]) -> bool {
    !texts[Text::TransactionId as usize].is_empty()
        && Text::ALL.iter().all(|&field| {
            field == Text::Currency || !odd[field as usize] && texts[field as usize].len() <= ID_BYTES_MAX
        })
}

fn digest(transaction: &Transaction) -> [u8; 16] {
    let mut payload = Payload::new();
    payload.text(transaction.id().as_bytes());
    payload.number(transaction.event_time_ns);
    payload.number(transaction.amount_minor);
    for field in &Text::ALL[Text::Currency as usize..] {
        payload.text(transaction.text(*field).as_bytes());
    }
    for (key, value) in transaction.attributes() {
        payload.text(key.as_bytes());
        payload.bits(value);
    }
    payload.digest()
}

/// A google.protobuf.Timestamp.
#[derive(Default, Clone, Copy)]
struct Timestamp {
    seconds: i64,
    nanos: i32,
}

impl Timestamp {
    fn merge(&mut self, mut reader: Reader<'_>) -> Result<(), Undecodable> {
        const SECONDS: u32 = varint_tag(1);
        const NANOS: u32 = varint_tag(2);
        while let Some(tag) = reader.next_tag()? {
            match tag {
                SECONDS => self.seconds = reader.varint()? as i64,
                NANOS => self.nanos = reader.varint()? as i32,
                _ => reader.skip(tag)?,
            }
        }
        Ok(())
    }

    fn nanoseconds(self) -> i64 {
        let nanos = i64::from(self.nanos);
        if !(0..SECOND_NS).contains(&nanos) {
            EVENT_TIME_MISSING_NS
        } else if !(1 - SECONDS_MAX..SECONDS_MAX).contains(&self.seconds) {
            EVENT_TIME_OUTSIDE_NS
        } else {
            self.seconds * SECOND_NS + nanos
        }
    }
}

/// Reads a map entry; None where it holds a field that entries do not have: upb then keeps it out of the map.
fn read_entry(mut reader: Reader<'_>) -> Result<Option<Attribute>, Undecodable> {
    const KEY: u32 = delimited_tag(1);
    const VALUE: u32 = fixed64_tag(2);
    let mut attribute = Attribute { key: Span::default(), value: 0.0 };
    let mut known = true;
    while let Some(tag) = reader.next_tag()? {
        match tag {
            KEY => {
                attribute.key = reader.delimited()?;
                check_text(reader.value(attribute.key))?;
            }
            VALUE => attribute.value = f64::from_bits(reader.fixed64()?),
            _ => {
                reader.skip(tag)?;
                known = false;
            }
        }
    }
    Ok(known.then_some(attribute))
}

fn keep_last_of_each_key(attributes: &mut Vec<Attribute>, message: &[u8]) {
    attributes.sort_by(|one, other| one.key.of(message).cmp(other.key.of(message))); // stable: the last stays last
    attributes.dedup_by(|later, kept| {
        let same = later.key.of(message) == kept.key.of(message);
        if same {
            kept.value = later.value;
        }
        same
    });
}

#[derive(PartialEq, Eq)]
enum Kind {
    PrintableAscii,
    Odd,
}

#[inline]
fn check_text(text: &[u8]) -> Result<Kind, Undecodable> {
    if is_printable_ascii(text) {
        return Ok(Kind::PrintableAscii);
    }
    str::from_utf8(text).map_err(|_| Undecodable)?;
    Ok(Kind::Odd)
}

/// Looks at eight bytes at a time; the last eight may overlap the ones before.
#[inline]
fn is_printable_ascii(text: &[u8]) -> bool {
    let (words, _) = text.as_chunks::<8>();
    match text.last_chunk::<8>() {
        Some(last) => words.iter().chain([last]).all(|word| is_printable_word(u64::from_le_bytes(*word))),
        None => text.iter().all(|byte| (0x20..=0x7e).contains(byte)),
    }
}

#[inline]
fn is_printable_word(word: u64) -> bool {
    const HIGH: u64 = 0x8080_8080_8080_8080;
    const TO_7F: u64 = 0x0101_0101_0101_0101; // carries 0x7f over to the high bit
    const TO_20: u64 = 0x6060_6060_6060_6060; // carries what is over 0x1f to the high bit
    word & HIGH == 0 && word.wrapping_add(TO_7F) & HIGH == 0 && word.wrapping_add(TO_20) & HIGH == HIGH
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::encoding as wire;

    use super::*;

    fn request(body: &[u8]) -> Bytes {
        let mut message = Vec::new();
        wire::bytes::encode(1, &body.to_vec(), &mut message);
        message.into()
    }

    fn decoded(body: &[u8]) -> Transaction {
        Transaction::decode_request(&request(body)).expect("it decodes").expect("it has a transaction")
    }

    /// A body with texts by field number, then an entry of attributes for each pair.
    fn body_of(texts: &[(u32, &str)], attributes: &[(String, f64)]) -> Vec<u8> {
        let mut body = Vec::new();
        for (number, text) in texts {
            wire::string::encode(*number, &(*text).to_owned(), &mut body);
        }
        for (key, value) in attributes {
            let mut entry = Vec::new();
            wire::string::encode(1, key, &mut entry);
            wire::double::encode(2, value, &mut entry);
            wire::bytes::encode(11, &entry, &mut body);
        }
        body
    }

    proptest! {
        #[test]
        fn texts_come_back_and_the_last_counts(texts in prop::collection::vec((0..8_usize, ".{0,12}"), 0..20)) {
            const NUMBERS: [u32; TEXTS] = [1, 4, 5, 6, 7, 8, 9, 10];
            let fields: Vec<_> = texts.iter().map(|(i, text)| (NUMBERS[*i], text.as_str())).collect();
            let transaction = decoded(&body_of(&fields, &[]));
            for (i, field) in Text::ALL.into_iter().enumerate() {
                let last = texts.iter().rev().find(|(at, _)| *at == i).map_or("", |(_, text)| text);
                prop_assert_eq!(transaction.text(field), last);
            }
        }

        #[test]
        fn attributes_come_by_key_and_the_last_counts(pairs in prop::collection::vec(("[ab]{0,2}", any::<f64>()), 0..30)) {
            let expected: std::collections::BTreeMap<_, _> =
                pairs.iter().map(|(key, value)| (key.as_str(), value.to_bits())).collect();
            let transaction = decoded(&body_of(&[], &pairs));
            let found: Vec<_> = transaction.attributes().map(|(key, value)| (key, value.to_bits())).collect();
            prop_assert_eq!(found, expected.into_iter().collect::<Vec<_>>());
        }

        #[test]
        fn printable_ascii_is_what_it_says(text in prop::collection::vec(prop_oneof![6 => 0x20..0x7f_u8, 1 => any::<u8>()], 0..40)) {
            prop_assert_eq!(is_printable_ascii(&text), text.iter().all(|byte| (0x20..=0x7e).contains(byte)));
        }

        #[test]
        fn a_message_that_was_cut_decodes_or_is_refused(body in prop::collection::vec(any::<u8>(), 0..60), cut in 0..60_usize) {
            let message = request(&body);
            let _ = Transaction::decode_request(&message.slice(..cut.min(message.len())));
            let _ = Transaction::decode_request(&Bytes::from(body.clone()));
            let _ = Transaction::decode_batch(&Bytes::from(body));
        }
    }

    fn event_time_ns(seconds: i64, nanos: i32) -> i64 {
        Timestamp { seconds, nanos }.nanoseconds()
    }

    #[test]
    fn event_times() {
        assert_eq!(event_time_ns(0, 0), 0);
        assert_eq!(event_time_ns(-1, 999_999_999), -1);
        assert_eq!(event_time_ns(1, 1_000_000_000), EVENT_TIME_MISSING_NS);
        assert_eq!(event_time_ns(i64::MAX, -1), EVENT_TIME_MISSING_NS);
        assert_eq!(event_time_ns(9_223_372_035, 999_999_999), 9_223_372_035_999_999_999);
        assert_eq!(event_time_ns(9_223_372_036, 0), EVENT_TIME_OUTSIDE_NS);
        assert_eq!(event_time_ns(-9_223_372_035, 0), -9_223_372_035_000_000_000);
        assert_eq!(event_time_ns(-9_223_372_036, 0), EVENT_TIME_OUTSIDE_NS);
        assert_eq!(event_time_ns(i64::MIN, 0), EVENT_TIME_OUTSIDE_NS);
        assert_eq!(decoded(b"").event_time_ns, EVENT_TIME_MISSING_NS);
        assert_eq!(decoded(b"\x12\x00").event_time_ns, 0);
        assert_eq!(decoded(b"\x12\x02\x08\x01\x12\x02\x10\x02").event_time_ns, SECOND_NS + 2); // merged
    }

    #[test]
    fn a_flood_of_attributes_is_cut_where_it_is_too_many_anyway() {
        let many = |keys: usize, count: usize| {
            let all: Vec<_> = (0..count).map(|i| (format!("{:04}", i % keys), i as f64)).collect();
            decoded(&body_of(&[], &all))
        };
        for keys in [1, ATTRIBUTES_KEPT - 1] {
            let whole = many(keys, 3 * ENTRIES_AT_ONCE);
            let last = whole.attributes().last().expect("there are some");
            assert_eq!(
                (whole.attributes().len(), last.1),
                (keys, (last_of(keys - 1, keys, 3 * ENTRIES_AT_ONCE)) as f64)
            );
        }
        assert_eq!(many(ATTRIBUTES_KEPT, 3 * ENTRIES_AT_ONCE).attributes().len(), ATTRIBUTES_KEPT);
        assert_eq!(many(9_999, 9_999).attributes().len(), ENTRIES_AT_ONCE);
        let bad =
            [body_of(&[], &vec![("k".to_owned(), 1.0); ENTRIES_AT_ONCE + 1]), b"\x5a\x03\x0a\x01\xff".into()].concat();
        assert!(Transaction::decode_request(&request(&bad)).is_err(), "what is not kept is read all the same");
    }

    /// The last of `count` numbers whose remainder by `keys` is this.
    fn last_of(remainder: usize, keys: usize, count: usize) -> usize {
        (0..count).rev().find(|number| number % keys == remainder).unwrap_or(0)
    }

    #[test]
    fn plain_rows() {
        let plain = |texts: &[(u32, &str)]| decoded(&body_of(texts, &[])).plain;
        let (full, long) = ("x".repeat(64), "x".repeat(65));
        assert!(plain(&[(1, "tx ~"), (7, &full)]));
        assert!(plain(&[(1, "tx"), (4, "\u{20ac}"), (4, &long)])); // a currency has rules of its own
        assert!(plain(&[(1, "tx"), (7, "\u{e9}"), (7, "c")])); // the last counts
        assert!(!plain(&[(7, "c")]));
        assert!(!plain(&[(1, "tx"), (7, &long)]));
        assert!(!plain(&[(1, "tx"), (10, "\x1f")]));
        assert!(!Transaction::empty().plain);
    }

    #[test]
    fn fields_that_nobody_knows_are_passed_over() {
        let group = b"\x7b\x08\x01\x73\x00\x01\x74\x7c"; // field 15, inside it a group 14 with a field 0
        assert_eq!(decoded(&[group.as_slice(), b"\x18\x05"].concat()).amount_minor, 5);
        assert_eq!(decoded(b"\x1d\x01\x02\x03\x04\x18\x05").amount_minor, 5); // of another wire type
        assert_eq!(decoded(b"\x5a\x05\x0a\x01a\x18\x01").attributes().len(), 0); // in a map's entry
    }

    #[test]
    fn what_is_refused() {
        for body in [
            b"\x0a\x02a".as_slice(),                             // cut
            b"\x0a\x01\xff\x0a\x01a",                            // not UTF-8, though overwritten
            b"\x5a\x03\x0a\x01\xff",                             // a key that is not UTF-8
            b"\x00\x01",                                         // field number 0
            b"\x7b\x74",                                         // a group closed by another's end
            b"\x7c",                                             // an end without a start
            b"\x0e",                                             // wire type 6
            b"\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", // a varint of eleven bytes
            b"\x8a\x80\x80\x80\x80\x00\x01a",                    // a tag of six bytes
        ] {
            assert_eq!(Transaction::decode_request(&request(body)).unwrap_err(), Undecodable, "{body:x?}");
        }
        assert!(Transaction::decode_request(&Bytes::new()).unwrap().is_none());
    }

    #[test]
    fn groups_nest_a_hundred_deep() {
        let nested = |depth: usize| Bytes::from([vec![0x7b; depth], vec![0x7c; depth]].concat());
        assert!(Transaction::decode_request(&nested(100)).is_ok());
        assert!(Transaction::decode_request(&nested(101)).is_err());
        assert!(Transaction::decode_request(&nested(500_000)).is_err());
    }
}
