//! How long an op takes when no cache holds its operands: before each call a buffer larger than any cache is written.

use crate::device::record::{Event, Kind, Recording};
use crate::device::{Buffer, DType, Device};
use crate::error::Result;
use crate::ops::embed::fill;

/// Bytes written between calls: twice the second-level cache of an H200 and over, four times the third of most CPUs.
const BYTES: usize = 128 << 20;
/// Calls that are timed.
const CALLS: usize = 9;
/// Most launches a call may have.
const LAUNCHES: usize = 4096;
/// The span around a call.
const SPAN: &str = "cold";

/// What drives operands out of the caches.
pub struct Flusher {
    /// None on the emulator, whose times say nothing.
    buffer: Option<Buffer>,
}

impl Flusher {
    /// # Errors
    /// When the device has no room.
    pub fn new(dev: &Device) -> Result<Flusher> {
        let buffer = (dev.name() != "emu").then(|| dev.zeros(DType::F32, BYTES / 4)).transpose()?;
        Ok(Flusher { buffer })
    }

    /// Median microseconds of a call after its operands have left the caches: on a GPU from its first launch to the end
    /// of its last by the GPU's clock, else by the wall clock.
    ///
    /// # Errors
    /// What the call or the device refuses.
    pub fn cold_us(&mut self, dev: &Device, mut call: impl FnMut() -> Result<()>) -> Result<Option<f64>> {
        let Some(buffer) = &mut self.buffer else { return Ok(None) };
        dev.start_recording(CALLS * LAUNCHES)?;
        for round in 0..CALLS {
            fill(dev, buffer.view_mut(), round as f32)?;
            let _span = dev.phase(SPAN);
            call()?;
        }
        let mut us = calls_us(&dev.stop_recording()?);
        us.sort_by(f64::total_cmp);
        Ok(us.get(us.len() / 2).copied())
    }
}

/// The length of each span's launches, where they carry the GPU's times, else of the span.
fn calls_us(recording: &Recording) -> Vec<f64> {
    let events = &recording.events;
    let is_call = |e: &Event| e.kind == Kind::Phase && e.name == SPAN;
    let length = |at: usize| {
        if !recording.gpu_times {
            return Some(events[at].ns());
        }
        let inside = events[at + 1..].iter().take_while(|e| e.depth > events[at].depth);
        let launches = inside.filter(|e| e.kind == Kind::Kernel);
        let (first, end) = launches.fold((u64::MAX, 0), |(first, end), e| (first.min(e.start_ns), end.max(e.end_ns)));
        end.checked_sub(first)
    };
    let calls = (0..events.len()).filter(|at| is_call(&events[*at]));
    calls.filter_map(length).map(|ns| ns as f64 / 1e3).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::record::Cost;

    #[test]
    fn a_call_lasts_from_its_first_launch_to_the_end_of_its_last() {
        let event =
            |kind, name, depth, start_ns, end_ns| Event { kind, name, depth, start_ns, end_ns, cost: Cost::default() };
        let events = vec![
            event(Kind::Op, "fill", 0, 0, 10),
            event(Kind::Kernel, "fill", 1, 5, 9_000),
            event(Kind::Phase, SPAN, 0, 20, 60),
            event(Kind::Op, "linear_logprob_fwd", 1, 21, 59),
            event(Kind::Kernel, "gemm_nt_f32", 2, 10_000, 12_000),
            event(Kind::Kernel, "linear_logprob_fwd", 2, 12_500, 13_000),
            event(Kind::Op, "fill", 0, 70, 80),
            event(Kind::Kernel, "fill", 1, 20_000, 30_000),
        ];
        let on = |gpu_times| calls_us(&Recording { events: events.clone(), dropped: 0, gpu_times });
        assert_eq!(on(true), [3.0]);
        assert_eq!(on(false), [0.04]);
    }

    #[test]
    fn a_call_is_timed_cold_but_not_on_the_emulator() {
        let dev = Device::open("cpu", 1).unwrap();
        let (x, mut y) = (dev.zeros(DType::F32, 4096).unwrap(), dev.zeros(DType::F32, 4096).unwrap());
        let us = Flusher::new(&dev).unwrap().cold_us(&dev, || crate::ops::embed::copy(&dev, x.view(), y.view_mut()));
        assert!(us.unwrap().unwrap() > 0.0);
        let emu = Device::open("emu", 1).unwrap();
        assert_eq!(Flusher::new(&emu).unwrap().cold_us(&emu, || Ok(())).unwrap(), None);
    }
}
