//! A recording as numbers: per op, kernel and phase its time, calls, FLOPs, bytes; the gaps between ops; what was idle.
//!
//! The one idea: steps are cut into segments that do not overlap, and gaps between them, so the parts add up to the whole.
//! On wall-clock devices a segment is an op that lies in no other op; on a GPU it is a kernel, by the GPU's own clock.

use crate::device::record::{Cost, Event, Kind, Recording};
use std::collections::HashMap;

/// The phase that a workload opens around each of its steps.
pub const STEP: &str = "step";

/// One op (at one shape), one kernel or one phase.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Row {
    /// Its stem; of a phase the way to it.
    pub name: String,
    /// Its shape, when rows are by shape.
    pub shape: String,
    /// Calls.
    pub calls: u64,
    /// Time in it.
    pub ns: u64,
    /// Gaps just before it.
    pub gap_ns: u64,
    /// Floating-point operations.
    pub flops: f64,
    /// Bytes.
    pub bytes: f64,
}

/// Stretches between segments, in which the device had nothing to do.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Gaps {
    /// How many.
    pub n: usize,
    /// Half are shorter.
    pub median_ns: u64,
    /// One in a hundred is longer.
    pub p99_ns: u64,
    /// The longest.
    pub longest_ns: u64,
    /// What ended the longest.
    pub longest_before: String,
}

/// Everything a recording says about its steps.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Summary {
    /// Steps recorded.
    pub steps: usize,
    /// Time in them.
    pub step_ns: u64,
    /// Time in segments: `step_ns = busy_ns + idle_ns`.
    pub busy_ns: u64,
    /// Time between them.
    pub idle_ns: u64,
    /// Ops, the longest first.
    pub ops: Vec<Row>,
    /// Kernels, the longest first; none on the CPU. What an op costs is its kernel's; where it launches several, theirs in
    /// proportion to their times.
    pub kernels: Vec<Row>,
    /// Phases, in the order they first began.
    pub phases: Vec<Row>,
    /// Gaps between segments.
    pub gaps: Gaps,
    /// Spans that did not fit into the recording: then all of this is of a part only.
    pub dropped: u64,
    /// Kernels' times are the GPU's own.
    pub gpu_times: bool,
}

/// Adds up a recording; ops by name, or by name and shape.
pub fn summarise(recording: &Recording, by_shape: bool) -> Summary {
    let mut s = Sums { by_shape, gpu_times: recording.gpu_times, ..Sums::default() };
    recording.events.iter().for_each(|e| s.add(e));
    s.close_op();
    s.share_costs(0);
    let mut gaps = s.gaps;
    gaps.sort_unstable_by_key(|g| g.0);
    let at = |q: f64| gaps.get(((gaps.len().max(1) - 1) as f64 * q) as usize).map_or(0, |g| g.0);
    let longest = gaps.last().map_or(String::new(), |g| g.1.to_string());
    let gaps =
        Gaps { n: gaps.len(), median_ns: at(0.5), p99_ns: at(0.99), longest_ns: at(1.0), longest_before: longest };
    Summary {
        steps: s.steps,
        step_ns: s.step_ns,
        busy_ns: s.busy_ns,
        idle_ns: s.step_ns.saturating_sub(s.busy_ns),
        ops: s.ops.by_time(),
        kernels: s.kernels.by_time(),
        phases: s.phases.rows,
        gaps,
        dropped: recording.dropped,
        gpu_times: recording.gpu_times,
    }
}

/// Rows by key.
#[derive(Default)]
struct Rows {
    rows: Vec<Row>,
    at: HashMap<(String, String), usize>,
}

impl Rows {
    fn row(&mut self, name: String, shape: String) -> &mut Row {
        let at = self.row_at(name, shape);
        &mut self.rows[at]
    }

    fn row_at(&mut self, name: String, shape: String) -> usize {
        *self.at.entry((name.clone(), shape.clone())).or_insert_with(|| {
            self.rows.push(Row { name, shape, ..Row::default() });
            self.rows.len() - 1
        })
    }

    fn by_time(mut self) -> Vec<Row> {
        self.rows.sort_by(|a, b| b.ns.cmp(&a.ns).then(a.name.cmp(&b.name)));
        self.rows
    }
}

/// An open op, the cost of which is its launches'.
struct Unshared {
    depth: u32,
    /// Without that of ops inside it.
    flops: f64,
    bytes: f64,
    /// Its own launches: row, time.
    launches: Vec<(usize, u64)>,
}

/// A walk over the events.
#[derive(Default)]
struct Sums<'a> {
    by_shape: bool,
    gpu_times: bool,
    steps: usize,
    step_ns: u64,
    busy_ns: u64,
    ops: Rows,
    kernels: Rows,
    costs: Vec<Unshared>,
    phases: Rows,
    gaps: Vec<(u64, &'a str)>,
    /// Phases that are open: name, depth.
    open: Vec<(&'a str, u32)>,
    /// The outermost op that is open, the time of its segments so far, and the gaps before them.
    op: Option<(&'a Event, u64, u64)>,
    /// Where the last segment of the step ended.
    cursor_ns: Option<u64>,
}

impl<'a> Sums<'a> {
    fn add(&mut self, e: &'a Event) {
        if self.op.is_some_and(|(op, _, _)| e.depth <= op.depth) {
            self.close_op();
        }
        while self.open.last().is_some_and(|(_, depth)| e.depth <= *depth) {
            self.open.pop();
        }
        self.share_costs(e.depth);
        match e.kind {
            Kind::Phase => self.phase(e),
            // Outside of steps nothing counts.
            _ if self.open.first().is_none_or(|(name, _)| *name != STEP) => {}
            Kind::Op if self.op.is_none() => {
                self.open_cost(e);
                let gap = if self.gpu_times { 0 } else { self.segment(e, e.name) };
                self.op = Some((e, if self.gpu_times { 0 } else { e.ns() }, gap));
            }
            Kind::Op => self.open_cost(e),
            Kind::Kernel => {
                let in_op = self.op.map_or(e.name, |(op, _, _)| op.name);
                let gap = if self.gpu_times { self.segment(e, in_op) } else { 0 };
                if let Some((_, ns, gaps)) = self.op.as_mut().filter(|_| self.gpu_times) {
                    (*ns, *gaps) = (*ns + e.ns(), *gaps + gap);
                }
                let at = self.kernels.row_at(e.name.into(), String::new());
                let row = &mut self.kernels.rows[at];
                (row.calls, row.ns, row.gap_ns) = (row.calls + 1, row.ns + e.ns(), row.gap_ns + gap);
                if let Some(op) = self.costs.last_mut() {
                    op.launches.push((at, e.ns()));
                }
            }
        }
    }

    fn open_cost(&mut self, e: &Event) {
        let Cost { flops, bytes, .. } = e.cost;
        if let Some(outer) = self.costs.last_mut() {
            (outer.flops, outer.bytes) = ((outer.flops - flops).max(0.0), (outer.bytes - bytes).max(0.0));
        }
        self.costs.push(Unshared { depth: e.depth, flops, bytes, launches: Vec::new() });
    }

    /// Ops at `depth` or deeper have ended: what each costs is its launches', in proportion to their times.
    fn share_costs(&mut self, depth: u32) {
        while let Some(op) = self.costs.pop_if(|op| depth <= op.depth) {
            let ns = op.launches.iter().map(|(_, ns)| ns).sum::<u64>().max(1) as f64;
            for (at, part) in op.launches {
                let row = &mut self.kernels.rows[at];
                row.flops += op.flops * part as f64 / ns;
                row.bytes += op.bytes * part as f64 / ns;
            }
        }
    }

    fn phase(&mut self, e: &'a Event) {
        self.open.push((e.name, e.depth));
        if self.open[0].0 != STEP {
            return;
        }
        if self.open.len() == 1 {
            self.steps += 1;
            self.step_ns += e.ns();
            self.cursor_ns = Some(e.start_ns);
        }
        let way: Vec<&str> = self.open.iter().map(|(name, _)| *name).collect();
        let row = self.phases.row(way.join(" > "), String::new());
        (row.calls, row.ns) = (row.calls + 1, row.ns + e.ns());
    }

    /// Notes a segment and returns the gap before it.
    fn segment(&mut self, e: &'a Event, name: &'a str) -> u64 {
        let gap = e.start_ns.saturating_sub(self.cursor_ns.unwrap_or(e.start_ns));
        self.cursor_ns = Some(e.end_ns);
        self.busy_ns += e.ns();
        self.gaps.push((gap, name));
        gap
    }

    fn close_op(&mut self) {
        let Some((e, ns, gap)) = self.op.take() else { return };
        let shape = if self.by_shape { e.cost.shape() } else { String::new() };
        let row = self.ops.row(e.name.into(), shape);
        (row.calls, row.ns, row.gap_ns) = (row.calls + 1, row.ns + ns, row.gap_ns + gap);
        (row.flops, row.bytes) = (row.flops + e.cost.flops, row.bytes + e.cost.bytes);
    }
}
