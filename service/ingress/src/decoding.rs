//! Decodes the fields of a Transaction, in whatever order and however often they come.

use bytes::Bytes;

use crate::digest::Payload;
use crate::transaction::{
    Attribute, EVENT_TIME_MISSING_NS, EVENT_TIME_OUTSIDE_NS, ID_BYTES_MAX, TEXTS, Text, Transaction,
};
use crate::wire::{Reader, Span, Undecodable, delimited_tag, fixed64_tag, varint_tag};

const SECOND_NS: i64 = 1_000_000_000;
const SECONDS_MAX: i64 = EVENT_TIME_OUTSIDE_NS / SECOND_NS;

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
                    self.attributes.extend(read_entry(reader.open(span)?)?);
                }
                _ => reader.skip(tag)?,
            }
        }
        Ok(())
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
