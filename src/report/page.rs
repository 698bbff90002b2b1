//! The page: headline, dialogues before and after, curves, tables, config. Every text from a file is escaped.

use super::curves::{PANELS, draw};
use super::files::{RunFiles, Sample};
use super::phases::{self, Phase};
use crate::error::Result;
use crate::negotiate::Cents;
use crate::run::barren::{BARREN, Barren};
use serde_json::{Map, Value};

/// Dialogues shown side by side.
const SHOWN: usize = 3;

/// The whole page.
pub fn page(files: &RunFiles) -> Result<String> {
    let name = files.dir.file_name().map_or("run".into(), |name| name.to_string_lossy());
    let mut body = format!("<h1>haggle: {}</h1>\n", escape(&name));
    body += &progress(files);
    body += &headline(files);
    body += &warnings(&files.metrics);
    body += &dialogues(&files.samples);
    if !files.metrics.is_empty() {
        body += "<h2>Curves</h2>\n";
    }
    body += "<div class=\"grid\">\n";
    for panel in &PANELS {
        if let Some(svg) = draw(files, panel)? {
            body += &format!(
                "<figure><figcaption>{}</figcaption>{svg}<p>{}</p></figure>\n",
                escape(panel.title),
                escape(panel.note)
            );
        }
    }
    body += "</div>\n";
    body += &table("Held-out products", &files.summary);
    body += &table("Paired differences, by product", &files.differences);
    body += &table("Held-out products", &files.sets);
    body += &phases(files);
    body += &ratios(&files.metrics);
    body += &format!("<details><summary>Config</summary><pre>{}</pre></details>\n", escape(&files.config));
    Ok(format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><title>haggle: {}</title>\n<style>{CSS}</style></head><body>\n{body}</body></html>\n",
        escape(&name)
    ))
}

fn progress(files: &RunFiles) -> String {
    if let Some(about) = &files.about {
        let (line, command) = (escape(&about.line()), escape(&about.command));
        return format!(
            "<p class=\"lead\">An evaluation of {}: {line}.</p>\n<pre>{command}</pre>\n",
            escape(&about.model)
        );
    }
    let steps = files.metrics.len();
    let ended = if files.summary.is_empty() && files.sets.is_empty() {
        "the final evaluation has not run yet"
    } else {
        "finished"
    };
    format!("<p class=\"lead\">{steps} steps, {ended}.</p>\n")
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
    let of = |key: &str| {
        let line = files.config.lines().find_map(|line| line.strip_prefix(key)?.trim_start().strip_prefix('='));
        line.map_or("", |value| value.split('#').next().unwrap_or_default().trim()).trim_matches('"').to_string()
    };
    format!(
        "<p class=\"headline\"><b>{from:.3} → {to:.3}</b>{spread}</p>\n<p class=\"lead\">Mean reward on held-out products, before and \
         after {:.0} min of training; seed {}, base {}, device {}.</p>\n",
        seconds / 60.0,
        escape(&of("seed")),
        escape(&of("base")),
        escape(&of("device"))
    )
}

/// The paper's four phases: from which step, or why not; nothing for a run without such curves.
fn phases(files: &RunFiles) -> String {
    let Some(found) = phases::of(files) else { return String::new() };
    let mut html = "<h2>The paper's four phases</h2>\n<table><tr><th>phase<th>shows</tr>\n".to_string();
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
        "<h2>Importance ratios</h2>\n<table><tr><th>ratio<th>tokens, last step<th>tokens, all steps</tr>\n".to_string();
    for (key, value) in last.iter() {
        let Some(bin) = key.strip_prefix("importance/ratio_") else { continue };
        let share = |row: &Map<String, Value>| row.get(key).and_then(Value::as_f64).unwrap_or(0.0);
        let mean = rows.iter().map(|row| share(row)).sum::<f64>() / rows.len() as f64;
        let bar = |share: f64| {
            format!("<td><meter min=\"0\" max=\"1\" value=\"{share:.4}\"></meter> {:.2} %</td>", 100.0 * share)
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
    let mut html = format!("<h2>{}</h2>\n<table><tr>", escape(title));
    for key in &keys {
        html += &format!("<th>{}</th>", escape(&key.replace('_', " ")));
    }
    html += "</tr>\n";
    for row in rows {
        html += "<tr>";
        for key in &keys {
            let spread = row.get(&format!("{key}_ci95")).or(if *key == "mean" { row.get("ci95") } else { None });
            html += &format!("<td>{}</td>", escape(&cell(row.get(*key), spread)));
        }
        html += "</tr>\n";
    }
    html + "</table>\n"
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

/// The same product before and after training, side by side.
fn dialogues(samples: &[Sample]) -> String {
    let of = |when: &str| samples.iter().filter(|s| s.when == when).collect::<Vec<_>>();
    let (before, after) = (of("before"), of("after"));
    let pairs = before.iter().filter_map(|b| Some((*b, *after.iter().find(|a| a.code == b.code)?)));
    let shown: Vec<_> = pairs.take(SHOWN).collect();
    if shown.is_empty() {
        return String::new();
    }
    let mut html = String::from("<h2>The same products, before and after training</h2>\n");
    for (before, after) in shown {
        html += &format!(
            "<h3>{} <small>{} · list {} · seller's cost {} · buyer's budget {}</small></h3>\n<div class=\"pair\">{}{}</div>\n",
            escape(if before.title.is_empty() { &before.code } else { &before.title }),
            escape(&before.scenario.to_uppercase()),
            Cents(before.list).compact(),
            Cents(before.cost).compact(),
            Cents(before.budget).compact(),
            dialogue("Before", before),
            dialogue("After", after)
        );
    }
    html
}

fn dialogue(title: &str, sample: &Sample) -> String {
    let mut html =
        format!("<section><h4>{title}: {}, reward {:.2}</h4>\n", escape(&outcome(&sample.outcome)), sample.reward);
    for turn in &sample.turns {
        let thought = match turn.thought.trim() {
            "" => String::new(),
            thought => format!("<i>{}</i>", escape(thought)),
        };
        let note =
            turn.intervention.as_ref().map(|why| format!("<em>regulated: {}</em>", escape(why))).unwrap_or_default();
        html += &format!(
            "<p class=\"{}\"><b>{}</b> {thought} {} <code>{}</code> {note}</p>\n",
            if turn.side == "buyer" { "buyer" } else { "seller" },
            escape(&turn.side),
            escape(turn.talk.trim()),
            escape(turn.action.trim())
        );
    }
    html + "</section>"
}

fn outcome(value: &Value) -> String {
    let kind = value.as_str().or_else(|| value.get("kind").and_then(Value::as_str)).unwrap_or("ended");
    match value.get("price").and_then(Value::as_i64) {
        Some(cents) => format!("{kind} at {}", Cents(cents).compact()),
        None => kind.into(),
    }
}

/// Text as HTML text.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

pub const CSS: &str = "
body{font:16px/1.5 system-ui,sans-serif;color:#222;background:#fff;max-width:1440px;margin:2rem auto;padding:0 1.5rem}
h1{font-size:1.7rem;margin-bottom:0}h2{margin-top:2.2rem;border-bottom:1px solid #ddd}h3{margin-bottom:.3rem}
p.warning{border-left:4px solid #b00020;padding-left:.6rem}
small,.lead,figure p{color:#666;font-weight:normal;font-size:.85rem}
table,.wide{display:block;overflow-x:auto;max-width:100%}.wide table{overflow:visible}
table{border-collapse:collapse;font-size:.9rem}th,td{padding:.25rem .7rem;text-align:right;border-bottom:1px solid #eee;white-space:nowrap}
th{color:#555;font-weight:600}th:first-child,td:first-child{text-align:left}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(420px,100%),1fr));gap:1rem}
.headline{font-size:2.2rem;margin:.4rem 0 0}
figure{margin:0;border:1px solid #eee;border-radius:6px;padding:.6rem}figcaption{font-weight:600}figure p{margin:.2rem 0 0}
svg{width:100%;height:auto;background:#fff}
.pair{display:grid;grid-template-columns:1fr 1fr;gap:1rem}section{border:1px solid #eee;border-radius:6px;padding:.2rem .8rem}
.pair p{margin:.35rem 0;padding-left:.6rem;border-left:3px solid #1f5c99}.pair p.seller{border-color:#c8621c}
.pair i{color:#888}.pair em{color:#b00020;font-size:.85rem}h4{margin:.5rem 0}
code{background:#f4f4f4;padding:.05rem .3rem;border-radius:3px}pre{background:#f8f8f8;padding:1rem;overflow:auto}
@media(max-width:800px){.pair{grid-template-columns:1fr}body{padding:0 .7rem;overflow-wrap:anywhere}}
@media(prefers-color-scheme:dark){body{color:#ddd;background:#161616}h2,section,figure,th,td{border-color:#333}
small,.lead,figure p,th{color:#aaa}code,pre{background:#222}}
";
