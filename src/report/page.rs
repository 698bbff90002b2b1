//! The page: headline, dialogues before and after, curves, tables, config. Every text from a file is escaped.

use super::curves::{PANELS, draw};
use super::files::RunFiles;
use super::parts::{boxed, document, escape};
use super::phases::{self, Phase};
use super::{answers, dialogues, held_out};
use crate::error::Result;
use crate::eval::model_of;
use crate::eval::tables::{Cells, figure};
use crate::run::barren::{BARREN, Barren};
use serde_json::{Map, Value};

/// Seconds after which the page of a run that goes on loads itself again.
const AGAIN_S: u32 = 20;

/// The whole page.
pub fn page(files: &RunFiles) -> Result<String> {
    let name = files.dir.file_name().map_or("run".into(), |name| name.to_string_lossy());
    let mut body = format!("<h1>haggle: {}</h1>\n", escape(&name));
    body += &progress(files);
    body += &if files.about.is_some() { evaluated(files)? } else { headline(files) };
    body += &best(files);
    body += &warnings(&files.metrics);
    if files.about.is_none() {
        body += &dialogues::first(&files.samples);
        body += &answers::answers(&files.answers);
        body += &curves(files)?;
    }
    body += &held_out::held_out(files)?;
    if files.about.is_some() || files.samples.iter().any(|sample| sample.seller != files.samples[0].seller) {
        body += &dialogues::by_seller(&files.samples);
    }
    body += &phases(files);
    body += &ratios(&files.metrics);
    body += &details("Every figure of the table", &table("Every figure", &files.summary));
    body += &details("Every paired difference", &table("Every difference", &files.differences));
    body += &details("Config", &format!("<pre tabindex=\"0\">{}</pre>", escape(&files.config)));
    let goes_on = files.about.is_none() && !is_finished(files) && !files.metrics.is_empty();
    Ok(document(&name, &body, goes_on.then_some(AGAIN_S)))
}

/// The curves in a grid; nothing where there is no step.
fn curves(files: &RunFiles) -> Result<String> {
    if files.metrics.is_empty() {
        return Ok(String::new());
    }
    let mut html = "<h2>Curves</h2>\n<p class=\"lead\">Over the steps of training. Thin: every step; thick: a moving mean.</p>\n<div class=\"grid\">\n".to_string();
    for panel in &PANELS {
        if let Some(svg) = draw(files, panel)? {
            html += &format!(
                "<figure><figcaption>{}</figcaption>{svg}<p>{}</p></figure>\n",
                escape(panel.title),
                escape(panel.note)
            );
        }
    }
    Ok(html + "</div>\n")
}

/// What is folded until it is asked for; nothing for nothing.
fn details(title: &str, html: &str) -> String {
    if html.is_empty() {
        String::new()
    } else {
        format!("<details><summary>{}</summary>\n{html}</details>\n", escape(title))
    }
}

/// Whether the final table is there.
fn is_finished(files: &RunFiles) -> bool {
    !(files.summary.is_empty() && files.sets.is_empty())
}

fn progress(files: &RunFiles) -> String {
    if let Some(about) = &files.about {
        let (line, command) = (escape(&about.line()), escape(&about.command));
        return format!(
            "<p class=\"lead\">An evaluation of {}: {line}.</p>\n<pre tabindex=\"0\">{command}</pre>\n",
            escape(&about.model)
        );
    }
    let steps = files.metrics.len();
    let ended = if is_finished(files) { "finished" } else { "the final evaluation has not run yet" };
    let of = match value(&files.config, "steps") {
        "" => String::new(),
        of => format!(" of {of}"),
    };
    format!("<p class=\"lead\">{steps}{} steps, {ended}.</p>\n", escape(&of))
}

/// Steps from which nothing could be learned, by kind; nothing where there were none.
fn warnings(metrics: &[Map<String, Value>]) -> String {
    let line = |why: Barren| {
        let is = |row: &&Map<String, Value>| row.get("warning").and_then(Value::as_str) == Some(why.key());
        let mut rows = metrics.iter().filter(is);
        let first = rows.next()?.get("step").and_then(Value::as_u64).unwrap_or(0);
        let n = rows.count() + 1;
        let said = format!("{} in {n} of {} steps, from step {first}, {}", why.what(), metrics.len(), why.advice());
        Some(format!("<p class=\"warning\"><b>Warning</b>: {}</p>\n", escape(&said)))
    };
    BARREN.into_iter().filter_map(line).collect()
}

/// From where to where the model came, in how long, with which seed; nothing before the run has ended.
fn headline(files: &RunFiles) -> String {
    let reward = |buyer: &str| files.final_value(buyer, "reward");
    let (Some(from), Some(to)) = (reward("untrained"), reward("trained")) else { return String::new() };
    let spread = files.final_value("trained", "reward_ci95").map_or(String::new(), |half| format!(" ± {half:.3}"));
    let seconds: f64 = files.curve("time/step_s").iter().map(|(_, s)| s).sum();
    let of = |key: &str| value(&files.config, key).to_string();
    format!(
        "<p class=\"headline\"><b>{from:.3} → {to:.3}</b><span>{spread}</span></p>\n<p class=\"lead\">Mean reward on held-out products, before and \
         after {:.0} min of training; seed {}, base {}, device {}.</p>\n",
        seconds / 60.0,
        escape(&of("seed")),
        escape(&of("base")),
        escape(&of("device"))
    )
}

/// What the model earned against the first seller that it met.
fn evaluated(files: &RunFiles) -> Result<String> {
    let rows = files.rows()?;
    let Some(model) = model_of(&rows) else { return Ok(String::new()) };
    let Some(row) = rows.iter().find(|row| row.buyer == model && row.scenario == "all") else {
        return Ok(String::new());
    };
    Ok(format!(
        "<p class=\"headline\"><b>{}</b></p>\n<p class=\"lead\">Mean reward of {} against {}, in {} games.</p>\n",
        figure(row.reward, row.reward_ci95),
        escape(model),
        escape(&row.seller),
        row.n
    ))
}

/// Which checkpoint was the best of those that were evaluated on the way; nothing where none was.
fn best(files: &RunFiles) -> String {
    let found = files.curve("held_out/best_step").last().copied();
    let Some((last, best)) = found else { return String::new() };
    let reward = files.curve("held_out/reward").into_iter().find(|(step, _)| *step == best);
    let reward = reward.map_or(String::new(), |(_, reward)| format!(", held-out reward {reward:+.3}"));
    format!(
        "<p class=\"lead\">Best checkpoint up to step {last:.0}: step {best:.0}{reward}; it is <code>checkpoints/best</code>. \
         It was chosen on these products, which flatters it there.</p>\n"
    )
}

/// The first value of a key in a config, without quotes; empty where there is none.
fn value<'a>(config: &'a str, key: &str) -> &'a str {
    let line = config.lines().find_map(|line| line.strip_prefix(key)?.trim_start().strip_prefix('='));
    line.map_or("", |value| value.split('#').next().unwrap_or_default().trim()).trim_matches('"')
}

/// The paper's four phases: from which step, or why not; nothing for a run without such curves.
fn phases(files: &RunFiles) -> String {
    let Some(found) = phases::of(files) else { return String::new() };
    let mut html = "<h2>The paper's four phases</h2>\n<table><tr><th>phase</th><th>shows</th></tr>\n".to_string();
    for (name, phase) in phases::NAMES.iter().zip(&found) {
        let shows = match phase {
            Phase::From(step) => format!("from step {step:.0}"),
            Phase::Missing(why) => format!("no: {why}"),
        };
        html += &format!("<tr><td>{}</td><td>{}</td></tr>\n", escape(name), escape(&shows));
    }
    html + &format!("</table>\n<p class=\"lead\">{}</p>\n", escape(phases::RULE))
}

/// How far the tokens' ratios to the policy that sampled them lay from 1, a bar a bin; nothing without a correction.
fn ratios(metrics: &[Map<String, Value>]) -> String {
    let rows: Vec<_> = metrics.iter().filter(|row| row.contains_key("importance/mean_weight")).collect();
    let Some(last) = rows.last() else { return String::new() };
    let mut html =
        "<h2>Importance ratios</h2>\n<table><tr><th>ratio</th><th>tokens, last step</th><th>tokens, all steps</th></tr>\n"
            .to_string();
    for (key, value) in last.iter() {
        let Some(bin) = key.strip_prefix("importance/ratio_") else { continue };
        let share = |row: &Map<String, Value>| row.get(key).and_then(Value::as_f64).unwrap_or(0.0);
        let mean = rows.iter().map(|row| share(row)).sum::<f64>() / rows.len() as f64;
        let bar = |share: f64| {
            format!(
                "<td><meter aria-label=\"share of tokens\" min=\"0\" max=\"1\" value=\"{share:.4}\"></meter> {:.2} %</td>",
                100.0 * share
            )
        };
        html += &format!("<tr><td>{}</td>", escape(&bin.replace('_', " ")));
        html += &format!("{}{}</tr>\n", bar(value.as_f64().unwrap_or(0.0)), bar(mean));
    }
    html + "</table>\n"
}

/// A list of flat objects as a table; the keys of the first are the columns. A `_ci95` joins its value.
fn table(title: &str, rows: &[Map<String, Value>]) -> String {
    let Some(first) = rows.first() else { return String::new() };
    let keys: Vec<&String> = first.keys().filter(|key| !key.ends_with("ci95")).collect();
    let mut cells: Cells = vec![keys.iter().map(|key| key.replace('_', " ")).collect()];
    for row in rows {
        let of = |key: &&String| {
            let spread = row.get(&format!("{key}_ci95")).or(if *key == "mean" { row.get("ci95") } else { None });
            cell(row.get(*key), spread)
        };
        cells.push(keys.iter().map(of).collect());
    }
    boxed(title, &cells)
}

fn cell(value: Option<&Value>, spread: Option<&Value>) -> String {
    let number = |value: &Value| match value.as_f64() {
        Some(_) if value.is_i64() || value.is_u64() => value.to_string(),
        Some(x) => format!("{x:.3}"),
        None => value.as_str().map_or_else(|| "–".into(), String::from),
    };
    let shown = value.map_or_else(|| "–".into(), number);
    match spread {
        Some(Value::Array(ends)) => format!("{shown} [{}]", ends.iter().map(number).collect::<Vec<_>>().join(", ")),
        Some(half) if half.is_number() => format!("{shown} ± {}", number(half)),
        _ => shown,
    }
}
