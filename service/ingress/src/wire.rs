//! The protobuf wire format as upb reads it, which is what the reference front end decodes with.
//!
//! Where the specification leaves room, upb decides: varints wrap at 64 bits, tags and sizes may be padded to five
//! bytes, an unknown group may hold field number 0, messages and groups nest 100 deep.

use std::fmt;

use bytes::Bytes;

/// How deep messages and groups may nest below the outermost message.
pub const DEPTH_MAX: u32 = 100;

const VARINT_BYTES_MAX: usize = 10;
const SHORT_VARINT_BYTES_MAX: usize = 5; // of a tag or a size

/// Bytes that are no message: cut, corrupt, nested too deep, or a text that is not UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Undecodable;

impl fmt::Display for Undecodable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the bytes do not decode")
    }
}

impl std::error::Error for Undecodable {}

/// The kinds of value on the wire, by the low three bits of a tag.
mod wire_type {
    pub const VARINT: u32 = 0;
    pub const FIXED64: u32 = 1;
    pub const DELIMITED: u32 = 2;
    pub const START_GROUP: u32 = 3;
    pub const END_GROUP: u32 = 4;
    pub const FIXED32: u32 = 5;
}

/// The tag of a varint field.
pub const fn varint_tag(field_number: u32) -> u32 {
    field_number << 3 | wire_type::VARINT
}

/// The tag of a fixed 64-bit field.
pub const fn fixed64_tag(field_number: u32) -> u32 {
    field_number << 3 | wire_type::FIXED64
}

/// The tag of a fixed 32-bit field.
pub const fn fixed32_tag(field_number: u32) -> u32 {
    field_number << 3 | wire_type::FIXED32
}

/// The tag of a length-delimited field.
pub const fn delimited_tag(field_number: u32) -> u32 {
    field_number << 3 | wire_type::DELIMITED
}

/// Where a value lies in its message. A message over 4 GiB is not decoded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Span {
    start: u32,
    len: u32,
}

impl Span {
    /// Of a message of at most 4 GiB.
    pub(crate) fn new(start: usize, len: usize) -> Self {
        Self { start: start as u32, len: len as u32 }
    }

    /// Bytes of the value.
    pub fn len(self) -> usize {
        self.len as usize
    }

    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    /// The value, of the message that the span was read from.
    pub fn of(self, message: &[u8]) -> &[u8] {
        &message[self.start as usize..][..self.len as usize]
    }
}

/// Reads one message, or a part of it, from front to back.
pub struct Reader<'a> {
    /// The message up to where this part ends: spans count from its start, whatever part is read.
    bytes: &'a [u8],
    at: usize,
    /// Levels of messages and groups that may still be opened.
    depth: u32,
}

impl<'a> Reader<'a> {
    /// Reads an outermost message.
    pub fn new(message: &'a Bytes) -> Result<Self, Undecodable> {
        if u32::try_from(message.len()).is_err() {
            return Err(Undecodable);
        }
        Ok(Self { bytes: message, at: 0, depth: DEPTH_MAX })
    }

    /// Reads the message that lies at ``span``.
    pub fn open(&self, span: Span) -> Result<Self, Undecodable> {
        let depth = self.depth.checked_sub(1).ok_or(Undecodable)?;
        let start = span.start as usize;
        Ok(Self { bytes: &self.bytes[..start + span.len()], at: start, depth })
    }

    /// The next field's tag; None at the end.
    #[inline]
    pub fn next_tag(&mut self) -> Result<Option<u32>, Undecodable> {
        if self.at == self.bytes.len() { Ok(None) } else { self.tag().map(Some) }
    }

    #[inline]
    pub fn varint(&mut self) -> Result<u64, Undecodable> {
        let mut value = 0;
        for (i, &byte) in self.bytes[self.at..].iter().take(VARINT_BYTES_MAX).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * i); // the tenth byte's upper bits are shifted out
            if byte < 0x80 {
                self.at += i + 1;
                return Ok(value);
            }
        }
        Err(Undecodable)
    }

    #[inline]
    pub fn fixed64(&mut self) -> Result<u64, Undecodable> {
        let (value, _) = self.bytes[self.at..].split_first_chunk().ok_or(Undecodable)?;
        self.at += size_of::<u64>();
        Ok(u64::from_le_bytes(*value))
    }

    #[inline]
    pub fn delimited(&mut self) -> Result<Span, Undecodable> {
        let len = self.short_varint()?;
        let start = self.at;
        if len as usize > self.bytes.len() - start {
            return Err(Undecodable);
        }
        self.at += len as usize;
        Ok(Span { start: start as u32, len }) // a message is at most u32::MAX bytes, see new()
    }

    /// The message, up to where this part ends.
    #[inline]
    pub fn message(&self) -> &'a [u8] {
        self.bytes
    }

    /// The bytes of a span of this message.
    #[inline]
    pub fn value(&self, span: Span) -> &'a [u8] {
        span.of(self.bytes)
    }

    /// Passes over the value of an unknown field.
    pub fn skip(&mut self, tag: u32) -> Result<(), Undecodable> {
        if tag >> 3 == 0 {
            return Err(Undecodable);
        }
        self.skip_value(tag, self.depth)
    }

    fn skip_value(&mut self, tag: u32, depth: u32) -> Result<(), Undecodable> {
        match tag & 7 {
            wire_type::VARINT => self.varint().map(drop),
            wire_type::FIXED64 => self.skip_bytes(8),
            wire_type::DELIMITED => self.delimited().map(drop),
            wire_type::START_GROUP => self.skip_group(tag >> 3, depth.checked_sub(1).ok_or(Undecodable)?),
            wire_type::FIXED32 => self.skip_bytes(4),
            _ => Err(Undecodable),
        }
    }

    fn skip_group(&mut self, field_number: u32, depth: u32) -> Result<(), Undecodable> {
        loop {
            let tag = self.tag()?;
            if tag & 7 != wire_type::END_GROUP {
                self.skip_value(tag, depth)?;
            } else {
                return if tag >> 3 == field_number { Ok(()) } else { Err(Undecodable) };
            }
        }
    }

    fn skip_bytes(&mut self, count: usize) -> Result<(), Undecodable> {
        if count > self.bytes.len() - self.at {
            return Err(Undecodable);
        }
        self.at += count;
        Ok(())
    }

    #[inline]
    fn tag(&mut self) -> Result<u32, Undecodable> {
        self.short_varint()
    }

    #[inline]
    fn short_varint(&mut self) -> Result<u32, Undecodable> {
        let start = self.at;
        let value = self.varint()?;
        if self.at - start > SHORT_VARINT_BYTES_MAX {
            return Err(Undecodable);
        }
        u32::try_from(value).map_err(|_| Undecodable)
    }
}
