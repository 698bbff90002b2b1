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

/// A column of the live table.
struct Column {
    head: &'static str,
    metric: &'static str,
    decimals: usize,
}

const fn column(head: &'static str, metric: &'static str, decimals: usize) -> Column {
    Column { head, metric, decimals }
}

/// Columns of the live table, of which a run has those that its task knows; 80 characters hold the first ones, a wider
/// terminal more.
const COLUMNS: [Column; 23] = [
    column("step", "step", 0),
    column("reward", "reward/mean", 3),
    column("deals", "deal_rate", 2),
    column("bargained", "bargained_ratio", 2),
    column("1st bid", "first_offer_ratio", 2),
    column("over", "overshoot_rate", 3),
    column("broken", "format_error_rate", 3),
    column("best", "sets/best", 3),
    column("candidate", "sets/candidate", 3),
    column("malformed", "sets/malformed", 3),
    column("distinct", "sets/distinct", 2),
    column("entropy", "policy/entropy", 3),
    column("s/step", "time/step_s", 1),
    column("turns", "turns", 1),
    column("crossed", "bids/crossed", 3),
    column("falling", "bids/falling", 3),
    column("size", "sets/size", 1),
    column("no penalty", "reward/no_penalty", 3),
    column("constant", "rollout/constant_groups", 0),
    column("kl", "policy/kl", 4),
    column("grad", "grad_norm", 2),
    column("reasons", "reason_rate", 2),
    column("tok/s", "time/sampled_tokens_per_s", 0),
];

/// The head and the rows of the live table, in the columns that these rows have and `width` characters hold.
fn table(rows: &VecDeque<Metrics>, width: usize) -> Vec<Vec<String>> {
    let has = |column: &&Column| rows.iter().any(|row| row.contains_key(column.metric));
    let mut cells: Vec<Vec<String>> = vec![vec![]; rows.len() + 1];
    let mut used = 0;
    for Column { head, metric, decimals } in COLUMNS.iter().filter(has) {
        let own: Vec<String> = rows.iter().map(|row| cell(row.get(*metric), *decimals)).collect();
        used += own.iter().map(String::len).max().unwrap_or(0).max(head.len()).max(LEAST) + 2;
        if used > width {
            break;
        }
        cells[0].push((*head).into());
        cells[1..].iter_mut().zip(own).for_each(|(line, cell)| line.push(cell));
    }
    cells
}

/// Characters of a cell at least, so that a table stands still while it fills.
const LEAST: usize = 6;

/// What stands on the screen.
pub struct Live {
    bars: Option<Bars>,
    rows: VecDeque<Metrics>,
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
        self.rows.push_back(row.clone());
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
        out::columns(&table(&self.rows, out::note_width()))
    }

    fn plain_row(&mut self) {
        let cells = table(&self.rows, out::note_width());
        let widths: Vec<usize> = cells[0].iter().map(|head| head.len().max(7)).collect();
        let line = |cells: &[String]| -> String {
            cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:>width$} ")).collect()
        };
        if self.printed.is_multiple_of(HEAD_EVERY) {
            out::note(&line(&cells[0]));
        }
        self.printed += 1;
        if let Some(row) = cells.last() {
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

fn cell(value: Option<&Value>, decimals: usize) -> String {
    value.and_then(Value::as_f64).map_or_else(|| "-".into(), |x| format!("{x:.decimals$}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(keys: impl Fn(&Column) -> bool) -> VecDeque<Metrics> {
        let row = |step: usize| {
            let of = |column: &Column| (column.metric.to_string(), Value::from(step as f64 * 10.5));
            COLUMNS.iter().filter(|column| keys(column)).map(of).collect()
        };
        (1..=8).map(row).collect()
    }

    /// Metrics of the game alone.
    const OF_GAME: [&str; 10] = [
        "deal_rate",
        "bargained_ratio",
        "first_offer_ratio",
        "overshoot_rate",
        "format_error_rate",
        "turns",
        "bids/crossed",
        "bids/falling",
        "reward/no_penalty",
        "reason_rate",
    ];

    #[test]
    fn the_live_table_fits_80_characters_grows_and_has_no_column_of_another_task() {
        for game in [true, false] {
            let other = |column: &Column| {
                if game { column.metric.starts_with("sets/") } else { OF_GAME.contains(&column.metric) }
            };
            let rows = rows(|column| !other(column));
            let shown = [80, 120, 200].map(|width| {
                let cells = table(&rows, width);
                let text = out::columns(&cells);
                assert!(text.lines().all(|line| line.chars().count() <= width), "{width}: {text}");
                assert_eq!((text.contains("deals"), text.contains("malformed")), (game, !game), "{text}");
                assert!(text.contains("s/step"), "{width}: {text}");
                cells[0].len()
            });
            assert!(shown.is_sorted() && shown[0] < shown[1], "{shown:?}");
        }
    }
}
