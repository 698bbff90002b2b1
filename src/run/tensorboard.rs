//! TensorBoard event files: scalars a step, readable by `tensorboard --logdir RUN`.
//!
//! The one idea: an event is four protobuf fields and a frame, so it is encoded by hand. Frame (TFRecord): length u64,
//! masked crc32c of the length, the bytes, masked crc32c of the bytes; little endian. Events are appended; a run that goes on
//! keeps those of the steps behind it byte for byte, with the times they had.

use crate::disk::write_atomic;
use crate::error::{Error, Result};
use std::collections::BTreeMap;
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
            writer.append(&version(wall_s))?;
        }
        Ok(writer)
    }

    /// Opens `dir`'s event file to go on behind `step`: events of later steps are left out, and steps of `rows` that it has
    /// no event of are written, their times counted by how long the steps took, up to `wall_s`. The second result is how
    /// many those are.
    ///
    /// # Errors
    /// [`Error::Io`] naming the path.
    pub fn go_on(dir: &Path, wall_s: f64, step: u64, rows: &[StepScalars]) -> Result<(EventWriter, usize)> {
        let path = dir.join(FILE_NAME);
        let old = match std::fs::read(&path) {
            Ok(old) => old,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(Error::io(&path, e)),
        };
        let (head, mut events) = events_of(&old);
        events.retain(|of, _| *of <= step);
        let missing: Vec<_> = rows.iter().filter(|row| row.step <= step && !events.contains_key(&row.step)).collect();
        let mut took_s: f64 = missing.iter().map(|row| row.seconds).sum();
        for row in &missing {
            took_s -= row.seconds;
            let before = events.range(..row.step).next_back().map(|(_, event)| event.wall_s + row.seconds);
            let wall_s = before.unwrap_or(wall_s - took_s);
            let framed = frame(&scalars(wall_s, row.step, row.values.iter().map(|(tag, value)| (*tag, *value))));
            events.insert(row.step, Kept { wall_s, framed: framed.into() });
        }
        if !old.is_empty() || !events.is_empty() {
            std::fs::create_dir_all(dir).map_err(|e| Error::io(dir, e))?;
            let first = events.first_key_value().map_or(wall_s, |(_, event)| event.wall_s);
            let head = head.map_or_else(|| frame(&version(first)), <[u8]>::to_vec);
            write_atomic(&path, |f| {
                f.write_all(&head)?;
                events.values().try_for_each(|event| f.write_all(&event.framed))
            })?;
        }
        Ok((EventWriter::open(dir, wall_s)?, missing.len()))
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
        self.append(&scalars(wall_s, step, values))
    }

    fn append(&mut self, event: &[u8]) -> Result<()> {
        let framed = frame(event);
        self.file.write_all(&framed).map_err(|e| Error::io(&self.path, format!("cannot append an event: {e}")))
    }
}

/// The scalars of one step, to be written as one event.
pub struct StepScalars<'a> {
    /// The step.
    pub step: u64,
    /// How long it took.
    pub seconds: f64,
    /// Tags and values.
    pub values: Vec<(&'a str, f64)>,
}

/// An event as it stands in a file.
struct Kept<'a> {
    wall_s: f64,
    framed: std::borrow::Cow<'a, [u8]>,
}

/// The version record of a file, framed, and its events by step, up to the first that is not whole.
fn events_of(bytes: &[u8]) -> (Option<&[u8]>, BTreeMap<u64, Kept<'_>>) {
    let (mut head, mut events, mut rest) = (None, BTreeMap::new(), bytes);
    while let Some((event, framed)) = first_frame(rest) {
        rest = &rest[framed.len()..];
        match wall_and_step(event) {
            Some((wall_s, Some(step))) => drop(events.insert(step, Kept { wall_s, framed: framed.into() })),
            _ => head = head.or(Some(framed)),
        }
    }
    (head, events)
}

/// The first record of some bytes, alone and with its frame.
fn first_frame(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = bytes.first_chunk::<8>()?;
    let n = usize::try_from(u64::from_le_bytes(*length)).ok().filter(|n| *n < bytes.len())?;
    let event = bytes.get(12..12 + n)?;
    let framed = bytes.get(..16 + n)?;
    (frame(event) == framed).then_some((event, framed))
}

/// What [`scalars`] begins an event with: its time, then its step; the version record has no step.
fn wall_and_step(event: &[u8]) -> Option<(f64, Option<u64>)> {
    let [0x09, rest @ ..] = event else { return None };
    let (wall, rest) = rest.split_first_chunk::<8>()?;
    let step = rest.strip_prefix(&[2 << 3]).and_then(|rest| {
        let last = rest.iter().position(|byte| *byte < 0x80)?;
        Some(rest[..=last].iter().rev().fold(0, |step, byte| step << 7 | u64::from(byte & 0x7f)))
    });
    Some((f64::from_le_bytes(*wall), step))
}

fn version(wall_s: f64) -> Vec<u8> {
    let mut event = Vec::new();
    put_f64(&mut event, 1, wall_s);
    put_bytes(&mut event, 3, b"brain.Event:2");
    event
}

fn scalars<'a>(wall_s: f64, step: u64, values: impl IntoIterator<Item = (&'a str, f64)>) -> Vec<u8> {
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
    event
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
    /// The steps and times of a file.
    fn times(dir: &Path) -> Vec<(u64, f64)> {
        let events = records(&std::fs::read(dir.join(FILE_NAME)).unwrap());
        let of = |event: &Vec<u8>| match (&parse(event)[0], &parse(event)[1]) {
            ((1, Wire::Fixed64(wall)), (2, Wire::Varint(step))) => Some((*step, f64::from_bits(*wall))),
            _ => None,
        };
        assert_eq!(of(&events[0]), None, "a file begins with its version");
        events[1..].iter().map(|event| of(event).unwrap()).collect()
    }

    fn row(step: u64) -> StepScalars<'static> {
        StepScalars { step, seconds: 10.0, values: vec![("x", step as f64)] }
    }

    #[test]
    fn a_run_that_goes_on_keeps_the_times_of_the_steps_behind_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::open(dir.path(), 100.0).unwrap();
        for step in [1, 2, 300, 301] {
            writer.scalars(100.0 + step as f64, step, [("x", 1.0)]).unwrap();
        }
        let path = dir.path().join(FILE_NAME);
        let mut torn = std::fs::read(&path).unwrap();
        torn.truncate(torn.len() - 3);
        std::fs::write(&path, &torn).unwrap();
        let rows = [1, 2, 300].map(row);
        let (mut writer, missing) = EventWriter::go_on(dir.path(), 999.0, 300, &rows).unwrap();
        writer.scalars(1000.0, 301, [("x", 1.0)]).unwrap();
        assert_eq!((times(dir.path()), missing), (vec![(1, 101.0), (2, 102.0), (300, 400.0), (301, 1000.0)], 0));
        let (_, missing) = EventWriter::go_on(dir.path(), 999.0, 2, &rows).unwrap();
        assert_eq!((times(dir.path()), missing), (vec![(1, 101.0), (2, 102.0)], 0));
    }

    #[test]
    fn steps_without_an_event_are_written_with_times_as_far_apart_as_they_took() {
        let dir = tempfile::tempdir().unwrap();
        let rows = [1, 2, 3].map(row);
        let (_, missing) = EventWriter::go_on(dir.path(), 100.0, 3, &rows).unwrap();
        assert_eq!((times(dir.path()), missing), (vec![(1, 80.0), (2, 90.0), (3, 100.0)], 3));
        let (_, missing) = EventWriter::go_on(dir.path(), 500.0, 4, &[1, 2, 3, 4].map(row)).unwrap();
        assert_eq!((times(dir.path())[2..].to_vec(), missing), (vec![(3, 100.0), (4, 110.0)], 1));
    }
}
