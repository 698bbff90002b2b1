//! `haggle compare`: runs and evaluations beside each other, in the terminal and on one page.

use super::{Exit, Globals, out, tables};
use crate::config::paths::spelled;
use crate::error::{Error, Result};
use crate::eval::tables::{VERDICT, figure, marked};
use crate::report::{self, compare};
use clap::Args;
use compare::{Apart, One};
use serde_json::{Value, json};
use std::path::PathBuf;

/// Steps at either end of a curve that its ends are means of.
const ENDS: usize = 5;
/// Characters of a curve.
const CURVE: usize = 24;

/// Options of `haggle compare`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  haggle compare runs/001 runs/002               curves, tables, and differences paired by product
  haggle compare runs/*                          every run against the first
  haggle compare runs/001 runs/002 --html two.html
  haggle compare EVAL                            the tables of one evaluation again

A difference is over the products that both runs played against the same seller, product by product; * marks those whose 95 %
interval leaves out 0, of 8 products or more.")]
pub struct CompareArgs {
    /// Run directories, of train or eval; the others are compared with the first
    #[arg(value_name = "RUN", required = true, value_parser = super::path())]
    runs: Vec<PathBuf>,
    /// Write a page with every curve and table
    #[arg(long, value_name = "FILE", value_parser = super::path())]
    html: Option<PathBuf>,
}

/// Prints the comparison.
///
/// # Errors
/// What cannot be read or written.
pub fn run(args: &CompareArgs, globals: &Globals) -> Result<Exit> {
    let runs = compare::read(&args.runs)?;
    let apart = compare::apart(&runs);
    if let Some(path) = &args.html {
        report::write_comparison(&runs, path)?;
    }
    if globals.json {
        let all: Vec<Value> = runs.iter().map(told).collect();
        let text = json!({ "runs": all, "differences": apart }).to_string();
        out::line(&text);
        return Ok(Exit::Done);
    }
    out::print(&screen(&runs, &apart)?);
    args.html.iter().for_each(|path| out::line(&format!("page        {}", super::shell::word(path))));
    Ok(Exit::Done)
}

fn told(run: &One) -> Value {
    json!({ "run": spelled(&run.files.dir), "model": run.model, "steps": run.files.metrics.len(), "rows": run.rows })
}

/// What the terminal shows.
fn screen(runs: &[One], apart: &[Apart]) -> Result<String> {
    let mut parts = vec![curves(runs)];
    match runs {
        [one] => {
            let differences =
                one.files.differences.iter().cloned().map(|row| serde_json::from_value(Value::Object(row)));
            let differences: std::result::Result<Vec<_>, _> = differences.collect();
            let path = one.files.dir.join("differences.json");
            parts.push(tables::all(&one.rows, &differences.map_err(|e| Error::data(path, e))?, out::width()));
        }
        _ => parts.extend([models(runs), differences(apart)]),
    }
    parts.retain(|part| !part.is_empty());
    Ok(parts.join("\n"))
}

/// The reward of each run's training, as a line of bars, and its ends.
fn curves(runs: &[One]) -> String {
    let mut cells = vec![["reward in training", "steps", "first", "last", "curve"].map(String::from).to_vec()];
    for run in runs {
        let points: Vec<f64> = run.files.curve("reward/mean").into_iter().map(|(_, y)| y).collect();
        if points.is_empty() {
            continue;
        }
        let mean = |of: &[f64]| format!("{:+.3}", of.iter().sum::<f64>() / of.len() as f64);
        let n = ENDS.min(points.len());
        let ends = [mean(&points[..n]), mean(&points[points.len() - n..])];
        let [first, last] = ends;
        cells.push(vec![run.name.clone(), points.len().to_string(), first, last, bars(&points)]);
    }
    if cells.len() == 1 { String::new() } else { out::columns(&cells) }
}

/// A curve as bars of eight heights, from its lowest mean to its highest.
fn bars(points: &[f64]) -> String {
    let n = CURVE.min(points.len());
    let part = |i: usize| &points[i * points.len() / n..(i + 1) * points.len() / n];
    let means: Vec<f64> = (0..n).map(|i| part(i).iter().sum::<f64>() / part(i).len() as f64).collect();
    let (low, high) = (means.iter().copied().fold(f64::MAX, f64::min), means.iter().copied().fold(f64::MIN, f64::max));
    let height = |mean: &f64| ((mean - low) / (high - low).max(f64::MIN_POSITIVE) * 7.0).round() as usize;
    means.iter().map(|mean| ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'][height(mean).min(7)]).collect()
}

/// Each run's model against each of its sellers.
fn models(runs: &[One]) -> String {
    let head = ["run", "seller", "games", "reward", "deals", "over", "broken"];
    let mut cells = vec![head.map(String::from).to_vec()];
    for run in runs {
        for row in run.rows.iter().filter(|row| row.scenario == "all" && row.buyer == run.model) {
            cells.push(vec![
                run.name.clone(),
                row.seller.clone(),
                row.n.to_string(),
                figure(row.reward, row.reward_ci95),
                format!("{:.2}", row.deal_rate),
                format!("{:.1}%", 100.0 * row.overshoot_rate),
                format!("{:.1}%", 100.0 * row.format_error_rate),
            ]);
        }
    }
    if cells.len() == 1 { String::new() } else { out::columns(&cells) }
}

/// By how much the others are ahead of the first.
fn differences(apart: &[Apart]) -> String {
    let Some(first) = apart.first() else {
        return "no difference: the runs played no product against the same seller\n".into();
    };
    let mut cells = vec![["run", "seller", "products", "difference"].map(String::from).to_vec()];
    for Apart { run, seller, estimate, .. } in apart {
        let difference = marked(estimate.n, estimate.mean, estimate.ci95);
        cells.push(vec![run.clone(), seller.clone(), estimate.n.to_string(), difference]);
    }
    format!("reward, less that of {}\n{}{}\n", first.minus, out::columns(&cells), VERDICT)
}

#[cfg(test)]
mod tests {
    #[test]
    fn bars_rise_with_their_means() {
        assert_eq!(super::bars(&[0.0, 1.0]), "▁█");
        assert_eq!(super::bars(&[2.0; 3]), "▁▁▁");
        let rising: Vec<f64> = (0..80).map(f64::from).collect();
        let text: Vec<char> = super::bars(&rising).chars().collect();
        assert!(text.len() == super::CURVE && text.is_sorted(), "{text:?}");
    }
}
