//! Graphs: launches that were kept and run again, all at once, without their launch code.
//!
//! The one idea: a list. While a capture is under way every launch runs as ever and is kept as well: kernel, grid, block,
//! shared bytes, argument values. On `cuda` the driver gets the list as a graph, a node behind the other, and runs it with
//! one call; on `emu` the list itself is run. So what is kept, and when, is the same on both and tested on `emu`. (The
//! driver could capture its stream instead; then the emulator would prove nothing, and the capturing step run twice.)
//!
//! A launch that may begin early ([`Gpu::launch_dependent`]) has an edge of that kind to the one before.
//!
//! Argument values never change: what changes from run to run stands in memory. A graph holds no buffer, and is refused
//! once one of its buffers is gone.

use super::Gpu;
use super::cuda_graph::Exec;
use super::launch::{ArgBlock, Edge, Launch};
use super::pending::{Pending, pending};
use super::tape::Step;
use crate::device::buffer::Life;
use crate::error::{Error, Result};

/// Launches of a device that can be run again.
pub struct Graph {
    name: String,
    ops: String,
    n_launches: usize,
    n_dependent: usize,
    /// Of the buffers that the launches read and write.
    lives: Vec<Life>,
    body: Body,
}

enum Body {
    /// With what a launch that begins early may find unwritten.
    Emu(Vec<(Step, Option<Vec<Pending>>)>),
    Cuda(Exec),
}

impl Graph {
    /// Launches in it.
    pub fn n_launches(&self) -> usize {
        self.n_launches
    }

    /// Those that begin before the launches before them have ended, where the device does that: see [`Gpu::launch_dependent`].
    pub fn n_dependent(&self) -> usize {
        self.n_dependent
    }

    /// True while every buffer it was captured with is still there.
    pub fn is_whole(&self) -> bool {
        self.lives.iter().all(|life| !life.is_over())
    }

    pub(in crate::device) fn error(&self, what: impl ToString) -> Error {
        Error::Graph { name: self.name.clone(), ops: self.ops.clone(), what: what.to_string() }
    }
}

impl Gpu {
    /// See [`crate::device::Device::replays`].
    pub(in crate::device) fn replays(&self) -> bool {
        let waits = matches!(self, Gpu::Cuda(cuda) if cuda.waits());
        !waits && !self.recorder().is_on()
    }

    /// See [`crate::device::Device::capture`].
    pub(in crate::device) fn capture(&self, name: &str, work: impl FnOnce() -> Result<()>) -> Result<Graph> {
        self.tape().start();
        let done = work();
        let capture = self.tape().stop();
        done?;
        let lost = || Error::Device { device: self.name().into(), what: format!("graph {name} was not captured") };
        let capture = capture.ok_or_else(lost)?;
        let (ops, n_launches) = (capture.ops(), capture.steps.len());
        let n_dependent = capture.steps.iter().filter(|step| step.edge == Edge::Programmatic).count();
        let body = match self {
            Gpu::Emu(_) => Body::Emu(with_pending(capture.steps)),
            Gpu::Cuda(cuda) => Body::Cuda(cuda.graph(&capture.steps)?),
        };
        Ok(Graph { name: name.into(), ops, n_launches, n_dependent, lives: capture.lives, body })
    }

    /// See [`crate::device::Device::replay`].
    ///
    /// What the launches write is borrowed by nobody: the host's own slices of a buffer live inside one op's call, which
    /// holds the buffer's borrow, and the caller of a replay is in none.
    pub(in crate::device) fn replay(&self, graph: &Graph) -> Result<()> {
        if !graph.is_whole() {
            return Err(graph.error("a buffer it was captured with is gone"));
        }
        match (self, &graph.body) {
            (Gpu::Emu(emu), Body::Emu(steps)) => {
                for (i, (step, pending)) in steps.iter().enumerate() {
                    let &Step { kernel, op, grid, block, shared_bytes, .. } = step;
                    let launch = Launch { kernel, op, grid, block, shared_bytes, shape: &step.shape };
                    let done = emu.launch(&launch, pending.as_deref(), &mut ArgBlock::again(&step.args));
                    done.map_err(|e| graph.error(format!("launch {} of {}: {e}", i + 1, steps.len())))?;
                }
                Ok(())
            }
            (Gpu::Cuda(cuda), Body::Cuda(exec)) => cuda.replay(exec, &graph.name).map_err(|what| graph.error(what)),
            _ => Err(graph.error("a graph of another device")),
        }
    }
}

/// Launches, each with what those before it may still be writing, where it begins early.
fn with_pending(steps: Vec<Step>) -> Vec<(Step, Option<Vec<Pending>>)> {
    let early = |i: usize| (steps[i].edge == Edge::Programmatic).then(|| pending(&steps[..i]));
    let all: Vec<_> = (0..steps.len()).map(early).collect();
    steps.into_iter().zip(all).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{DType, Device};
    use crate::ops::embed::{copy, fill};

    #[test]
    fn what_is_captured_runs_again_on_what_then_stands_in_memory() {
        let dev = Device::open("emu", 1).unwrap();
        let (mut x, mut y) = (dev.upload(&[1f32, 2.0]).unwrap(), dev.zeros(DType::F32, 2).unwrap());
        let work = || {
            // Another thread's launch is none of this capture.
            std::thread::scope(|s| {
                s.spawn(|| fill(&dev, dev.zeros(DType::F32, 4).unwrap().view_mut(), 1.0).unwrap());
            });
            copy(&dev, x.view(), y.view_mut())
        };
        let graph = dev.capture("pair", work).unwrap();
        assert_eq!((dev.to_vec::<f32>(y.view()), graph.n_launches()), (vec![1.0, 2.0], 1), "it runs as it is captured");
        dev.write(x.view_mut(), &[5f32, 6.0]);
        fill(&dev, y.view_mut(), 0.0).unwrap();
        dev.replay(&graph).unwrap();
        assert_eq!(dev.to_vec::<f32>(y.view()), [5.0, 6.0]);
    }

    #[test]
    fn a_graph_whose_buffer_is_gone_is_refused_by_name() {
        let dev = Device::open("emu", 1).unwrap();
        let (x, mut y) = (dev.upload(&[1f32, 2.0]).unwrap(), dev.zeros(DType::F32, 2).unwrap());
        let work = || {
            fill(&dev, y.view_mut(), 3.0)?;
            fill(&dev, y.at_mut(0..0), 3.0)?;
            fill(&dev, y.view_mut(), 4.0)?;
            copy(&dev, x.view(), y.view_mut())
        };
        let graph = dev.capture("pair", work).unwrap();
        assert!(graph.is_whole());
        let moved = Some(x);
        dev.replay(&graph).unwrap();
        drop(moved);
        assert!(!graph.is_whole());
        let refused = dev.replay(&graph).unwrap_err();
        assert_eq!(refused.to_string(), "graph pair (fill x2, copy x1): a buffer it was captured with is gone");
        assert_eq!(refused.exit_code(), 4);
        assert!(Device::open("cpu", 1).unwrap().capture("pair", || Ok(())).is_err());
    }

    #[test]
    fn a_capture_that_fails_leaves_none() {
        let dev = Device::open("emu", 1).unwrap();
        let mut y = dev.zeros(DType::F32, 2).unwrap();
        let fails = || Err(Error::Training { what: "no".into() });
        assert!(dev.capture("no", fails).is_err());
        let graph = dev.capture("one", || fill(&dev, y.view_mut(), 3.0)).unwrap();
        assert_eq!(graph.n_launches(), 1);
        assert!(!Device::open("cpu", 1).unwrap().replays() && dev.replays());
        dev.start_recording(4).unwrap();
        assert!(!dev.replays(), "launches are timed one by one");
        dev.stop_recording().unwrap();
    }
}
