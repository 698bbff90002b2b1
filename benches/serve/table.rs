//! Numbers of a benchmark, and its tables.

use serde_json::{Value, json};

/// Times, of which percentiles are told.
#[derive(Debug, Default)]
pub struct Times(Vec<f64>);

impl Times {
    pub fn push(&mut self, seconds: f64) {
        self.0.push(seconds);
    }

    pub fn extend(&mut self, seconds: &[f64]) {
        self.0.extend(seconds);
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The time below which the share `q` of them lies, in ms.
    pub fn at(&self, q: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(((sorted.len().max(1) - 1) as f64 * q).round() as usize).map_or(f64::NAN, |seconds| seconds * 1e3)
    }
}

/// The middle of some numbers.
pub fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    (of[(of.len() - 1) / 2] + of[of.len() / 2]) / 2.0
}

/// The same work served and done by the engine alone: seconds, and seconds of cores, of each.
pub struct Pair {
    pub tokens: usize,
    pub served_s: f64,
    pub alone_s: f64,
    pub served_cpu_s: f64,
    pub alone_cpu_s: f64,
}

/// Medians of rounds: tokens a second of both, how many less the server has, and how much of its cores' time is not the
/// engine's, both in percent.
pub fn rates(rounds: &[Pair]) -> Value {
    let of = |f: &dyn Fn(&Pair) -> f64| median(rounds.iter().map(f).collect());
    json!({
        "tok_per_s": of(&|pair| pair.tokens as f64 / pair.served_s),
        "engine_tok_per_s": of(&|pair| pair.tokens as f64 / pair.alone_s),
        "http_percent": of(&|pair| 100.0 * (1.0 - pair.alone_s / pair.served_s)),
        "http_cpu_percent": of(&|pair| 100.0 * (1.0 - pair.alone_cpu_s / pair.served_cpu_s)),
    })
}

/// One object of several.
pub fn joined(parts: &[Value]) -> Value {
    parts.iter().filter_map(Value::as_object).flatten().map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// Rows of one case: as lines of JSON, or as a table of Markdown.
pub fn print(rows: &[Value], json: bool) {
    if json {
        return rows.iter().for_each(|row| println!("{row}"));
    }
    let Some(first) = rows.first().and_then(Value::as_object) else { return };
    let cells = |row: &Value| -> Vec<String> {
        let told = |value: &Value| match value.as_f64() {
            Some(x) if value.is_f64() => format!("{x:.1}"),
            _ => value.as_str().map_or(value.to_string(), String::from),
        };
        row.as_object().unwrap().values().map(told).collect()
    };
    println!("\n| {} |", first.keys().map(|name| name.replace('_', " ")).collect::<Vec<_>>().join(" | "));
    println!("|{}", "---|".repeat(first.len()));
    rows.iter().for_each(|row| println!("| {} |", cells(row).join(" | ")));
}
