//! TensorBoard event files: scalars a step, readable by `tensorboard --logdir RUN`.
//!
//! The one idea: an event is four protobuf fields and a frame, so it is encoded by hand. Frame (TFRecord): length u64,
//! masked crc32c of the length, the bytes, masked crc32c of the bytes; little endian. Events are appended, never rewritten.

use crate::error::{Error, Result};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Name of the event file in its folder. TensorBoard wants `tfevents` in it and sorts by what follows.
pub const FILE_NAME: &str = "events.out.tfevents.0000000001.haggle";

/// Appends events to one file.
pub struct EventWriter {
    path: PathBuf,
    file: File,
}

impl EventWriter {
    /// Opens `dir`'s event file for appending; a new one starts with the version record. `wall_s` is seconds since 1970.
    ///
    /// # Errors
    /// [`Error::Io`] naming the path.
    pub fn open(dir: &Path, wall_s: f64) -> Result<EventWriter> {
        std::fs::create_dir_all(dir).map_err(|e| Error::io(dir, e))?;
        let path = dir.join(FILE_NAME);
        let file = OpenOptions::new().create(true).append(true).open(&path).map_err(|e| Error::io(&path, e))?;
        let is_new = file.metadata().map_err(|e| Error::io(&path, e))?.len() == 0;
        let mut writer = EventWriter { path, file };
        if is_new {
            let mut event = Vec::new();
            put_f64(&mut event, 1, wall_s);
            put_bytes(&mut event, 3, b"brain.Event:2");
            writer.append(&event)?;
        }
        Ok(writer)
    }

    /// Appends the scalars of one step as one event.
    ///
    /// # Errors
    /// [`Error::Io`] naming the path.
    pub fn scalars<'a>(
        &mut self,
        wall_s: f64,
        step: u64,
        values: impl IntoIterator<Item = (&'a str, f64)>,
    ) -> Result<()> {
        let mut summary = Vec::new();
        for (tag, value) in values {
            let mut one = Vec::new();
            put_bytes(&mut one, 1, tag.as_bytes());
            put_f32(&mut one, 2, value as f32);
            put_bytes(&mut summary, 1, &one);
        }
        let mut event = Vec::new();
        put_f64(&mut event, 1, wall_s);
        put_varint(&mut event, 2 << 3, step);
        put_bytes(&mut event, 5, &summary);
        self.append(&event)
    }

    fn append(&mut self, event: &[u8]) -> Result<()> {
        let framed = frame(event);
        self.file.write_all(&framed).map_err(|e| Error::io(&self.path, format!("cannot append an event: {e}")))
    }
}

/// One TFRecord.
fn frame(bytes: &[u8]) -> Vec<u8> {
    let length = (bytes.len() as u64).to_le_bytes();
    let mut framed = Vec::with_capacity(bytes.len() + 16);
    framed.extend_from_slice(&length);
    framed.extend_from_slice(&masked_crc(&length).to_le_bytes());
    framed.extend_from_slice(bytes);
    framed.extend_from_slice(&masked_crc(bytes).to_le_bytes());
    framed
}

/// crc32c rotated and offset, so that a crc of data that holds crcs stays sound.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

fn put_varint(to: &mut Vec<u8>, tag: u8, mut value: u64) {
    to.push(tag);
    while value >= 0x80 {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

fn put_bytes(to: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    put_varint(to, field << 3 | 2, bytes.len() as u64);
    to.extend_from_slice(bytes);
}

fn put_f64(to: &mut Vec<u8>, field: u8, value: f64) {
    to.push(field << 3 | 1);
    to.extend_from_slice(&value.to_le_bytes());
}

fn put_f32(to: &mut Vec<u8>, field: u8, value: f32) {
    to.push(field << 3 | 5);
    to.extend_from_slice(&value.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One protobuf field: its number, and a number or bytes.
    #[derive(Debug, PartialEq)]
    enum Wire {
        Varint(u64),
        Fixed64(u64),
        Bytes(Vec<u8>),
        Fixed32(u32),
    }

    fn varint(bytes: &[u8], at: &mut usize) -> u64 {
        let mut value = 0u64;
        for shift in (0..).step_by(7) {
            let byte = bytes[*at];
            *at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        value
    }

    fn parse(bytes: &[u8]) -> Vec<(u64, Wire)> {
        let (mut at, mut fields) = (0, Vec::new());
        while at < bytes.len() {
            let tag = varint(bytes, &mut at);
            let wire = match tag & 7 {
                0 => Wire::Varint(varint(bytes, &mut at)),
                1 => {
                    at += 8;
                    Wire::Fixed64(u64::from_le_bytes(bytes[at - 8..at].try_into().unwrap()))
                }
                2 => {
                    let len = varint(bytes, &mut at) as usize;
                    at += len;
                    Wire::Bytes(bytes[at - len..at].to_vec())
                }
                5 => {
                    at += 4;
                    Wire::Fixed32(u32::from_le_bytes(bytes[at - 4..at].try_into().unwrap()))
                }
                other => panic!("wire type {other}"),
            };
            fields.push((tag >> 3, wire));
        }
        fields
    }

    /// Splits a file into records, checking both crcs with a bitwise crc32c of its own.
    fn records(bytes: &[u8]) -> Vec<Vec<u8>> {
        fn mask(bytes: &[u8]) -> u32 {
            let mut crc = !0u32;
            for &byte in bytes {
                crc ^= u32::from(byte);
                for _ in 0..8 {
                    crc = crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
                }
            }
            let crc = !crc;
            crc.rotate_right(15).wrapping_add(0xa282_ead8)
        }
        let (mut rest, mut found) = (bytes, Vec::new());
        while !rest.is_empty() {
            let len = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            assert_eq!(u32::from_le_bytes(rest[8..12].try_into().unwrap()), mask(&rest[..8]));
            let body = &rest[12..12 + len];
            assert_eq!(u32::from_le_bytes(rest[12 + len..16 + len].try_into().unwrap()), mask(body));
            found.push(body.to_vec());
            rest = &rest[16 + len..];
        }
        found
    }

    #[test]
    fn events_read_back_and_a_second_writer_appends() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::open(dir.path(), 1.5).unwrap();
        writer.scalars(2.5, 300, [("reward/mean", 0.25), ("grad_norm", -1.0)]).unwrap();
        drop(writer);
        EventWriter::open(dir.path(), 9.0).unwrap().scalars(3.5, 301, [("x", 1.0)]).unwrap();
        let events = records(&std::fs::read(dir.path().join(FILE_NAME)).unwrap());
        assert_eq!(events.len(), 3);
        let first = vec![(1, Wire::Fixed64(1.5f64.to_bits())), (3, Wire::Bytes(b"brain.Event:2".to_vec()))];
        assert_eq!(parse(&events[0]), first);
        let event = parse(&events[1]);
        assert_eq!(event[..2], [(1, Wire::Fixed64(2.5f64.to_bits())), (2, Wire::Varint(300))]);
        let (5, Wire::Bytes(summary)) = &event[2] else { panic!("{event:?}") };
        let values = parse(summary);
        assert_eq!(values.len(), 2);
        let (1, Wire::Bytes(value)) = &values[0] else { panic!("{values:?}") };
        let want = vec![(1, Wire::Bytes(b"reward/mean".to_vec())), (2, Wire::Fixed32(0.25f32.to_bits()))];
        assert_eq!(parse(value), want);
        assert_eq!(parse(&events[2])[1], (2, Wire::Varint(301)));
    }
}
