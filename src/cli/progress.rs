//! Showing a run while it goes on: bars and a live table on a terminal, plain lines anywhere else. All on stderr.

use super::barren::Told;
use super::out;
use crate::error::shown;
use crate::run::metrics::Metrics;
use crate::setup::memory;
use crate::train::held_out;
use crate::train::rl::Event;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::Value;
use std::collections::VecDeque;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Steps of the live table.
const SHOWN: usize = 8;
/// Lines between two heads of the plain table.
const HEAD_EVERY: usize = 20;
/// Seconds between two plain lines of a long evaluation.
const PLAIN_EVERY: Duration = Duration::from_secs(5);

/// Columns of the live table, 80 characters wide at most: head, metric, decimals.
const COLUMNS: [(&str, &str, usize); 9] = [
    ("step", "step", 0),
    ("reward", "reward/mean", 3),
    ("deals", "deal_rate", 2),
    ("bargained", "bargained_ratio", 2),
    ("1st bid", "first_offer_ratio", 2),
    ("over", "overshoot_rate", 3),
    ("broken", "format_error_rate", 3),
    ("entropy", "policy/entropy", 3),
    ("s/step", "time/step_s", 1),
];

/// What stands on the screen.
pub struct Live {
    bars: Option<Bars>,
    rows: VecDeque<Vec<String>>,
    printed: usize,
    barren: Told,
    spoke: Instant,
}

struct Bars {
    _all: MultiProgress,
    table: ProgressBar,
    steps: ProgressBar,
    inner: ProgressBar,
}

impl Live {
    /// A screen: bars when stderr is a terminal that can move its cursor, plain lines else.
    pub fn new() -> Live {
        let moves = std::env::var("TERM").is_ok_and(|term| !term.is_empty() && term != "dumb");
        let bars = (moves && std::io::stderr().is_terminal()).then(Bars::new);
        Live { bars, rows: VecDeque::new(), printed: 0, barren: Told::default(), spoke: Instant::now() }
    }

    /// Shows what the run tells.
    pub fn hear(&mut self, event: &Event) {
        match event {
            Event::Ready { run, plan, step, steps } => {
                let from = if *step > 0 { format!(", from step {step}") } else { String::new() };
                self.say(&format!("run {} ({steps} steps{from})", shown(run)));
                self.say(&memory::line(plan.device(), plan));
                self.begin(*step, *steps);
            }
            Event::Supervised { done, of } => self.inner("demonstrations", *done as usize, *of as usize, false),
            Event::Rollout { step, done, of } => self.inner(&format!("step {step}: episodes"), *done, *of, false),
            Event::Learning { step, of } => self.inner(&format!("step {step}: learning from them"), *of, *of, false),
            Event::HeldOut { step, seller, done, of } => {
                self.inner(&format!("step {step}: held-out products against {seller}"), *done, *of, false);
            }
            Event::Step(row) => self.row(row),
            Event::Saved(path) => {
                if let Some(bars) = &self.bars {
                    bars.steps.set_message(format!("saved {}", path.file_name().unwrap_or_default().to_string_lossy()));
                }
            }
            Event::Evaluation { buyer, seller, done, of } => {
                self.evaluation(buyer, seller, *done, *of);
            }
        }
    }

    /// Shows how far an evaluation is.
    pub fn evaluation(&mut self, buyer: &str, seller: &str, done: usize, of: usize) {
        self.inner(&format!("held-out products: {buyer} against {seller}"), done, of, true);
    }

    /// A line above whatever moves.
    pub fn say(&self, line: &str) {
        match &self.bars {
            Some(bars) => bars.table.println(line),
            None => out::note(line),
        }
    }

    /// Takes the bars away; the last rows stay.
    pub fn end(&mut self) {
        if let Some(bars) = self.bars.take() {
            for bar in [&bars.inner, &bars.steps, &bars.table] {
                bar.finish_and_clear();
            }
            if !self.rows.is_empty() {
                out::note(self.table().trim_end());
            }
        }
        std::mem::take(&mut self.barren).summary().iter().for_each(|line| out::note(line));
    }

    fn begin(&mut self, step: u64, steps: u64) {
        if let Some(bars) = &self.bars {
            bars.steps.set_length(steps);
            bars.steps.set_position(step);
            bars.steps.reset_eta();
            bars.steps.enable_steady_tick(Duration::from_millis(500));
        }
    }

    fn row(&mut self, row: &Metrics) {
        let cells = COLUMNS.iter().map(|(_, key, decimals)| cell(row.get(*key), *decimals)).collect();
        self.rows.push_back(cells);
        if self.rows.len() > SHOWN {
            self.rows.pop_front();
        }
        match &self.bars {
            Some(bars) => {
                bars.table.set_message(self.table());
                bars.steps.inc(1);
            }
            None => self.plain_row(),
        }
        held_out(row).iter().for_each(|line| self.say(line));
        let lines = [self.barren.hear_void(row), self.barren.hear(row)];
        lines.into_iter().flatten().for_each(|line| self.say(&line));
        if let Some(what) = row.get("not_finite").and_then(Value::as_str) {
            let step = row.get("step").and_then(Value::as_u64).unwrap_or(0);
            self.say(&format!("step {step}: the {what} was not finite; an update was skipped"));
        }
    }

    fn table(&self) -> String {
        let mut rows = vec![head()];
        rows.extend(self.rows.iter().cloned());
        out::columns(&rows)
    }

    fn plain_row(&mut self) {
        let widths = COLUMNS.map(|(head, _, _)| head.len().max(7));
        let line = |cells: &[String]| -> String {
            cells.iter().zip(widths).map(|(cell, width)| format!("{cell:>width$} ")).collect()
        };
        if self.printed.is_multiple_of(HEAD_EVERY) {
            out::note(&line(&head()));
        }
        self.printed += 1;
        if let Some(row) = self.rows.back() {
            out::note(&line(row));
        }
    }

    fn inner(&mut self, what: &str, done: usize, of: usize, plain: bool) {
        match &self.bars {
            Some(bars) => {
                bars.inner.set_length(of as u64);
                bars.inner.set_position(done as u64);
                bars.inner.set_message(what.to_string());
            }
            None if plain && (done == of || self.spoke.elapsed() > PLAIN_EVERY) => {
                self.spoke = Instant::now();
                out::note(&format!("{what}: {done}/{of}"));
            }
            None => {}
        }
    }
}

impl Default for Live {
    fn default() -> Live {
        Live::new()
    }
}

impl Bars {
    fn new() -> Bars {
        let all = MultiProgress::new();
        let style = |template: &str| {
            ProgressStyle::with_template(template)
                .unwrap_or_else(|_| ProgressStyle::default_bar())
                .progress_chars("━╸ ")
        };
        let add = |template: &str| all.add(ProgressBar::new(0).with_style(style(template)));
        let table = add("{msg}");
        let steps = add("steps  {bar:30} {pos}/{len}  {elapsed} gone, {eta} to go  {msg}");
        let inner = add("       {bar:30} {pos}/{len}  {msg}");
        Bars { _all: all, table, steps, inner }
    }
}

/// What the evaluation after a step found, where there was one.
fn held_out(row: &Metrics) -> Option<String> {
    let of = |key: &str| row.get(key).and_then(Value::as_f64);
    let (reward, step) = (of(held_out::REWARD)?, of("step")?);
    let spread = of("held_out/reward_ci95").map_or(String::new(), |half| format!(" ±{half:.3}"));
    let best = match of(held_out::BEST_STEP) {
        Some(best) if best < step => format!("the best is step {best}"),
        _ => "the best so far".into(),
    };
    Some(format!("step {step}: held-out reward {reward:+.3}{spread}, {best}"))
}

fn head() -> Vec<String> {
    COLUMNS.iter().map(|(head, _, _)| (*head).to_string()).collect()
}

fn cell(value: Option<&Value>, decimals: usize) -> String {
    value.and_then(Value::as_f64).map_or_else(|| "-".into(), |x| format!("{x:.decimals$}"))
}
