//! What cards have shown: rows that `tools/gpu_check run` wrote on one, kept in `benches/results/cards.jsonl`.
//!
//! The one idea: what no card has passed is off, and a recorded row turns it on, on GPUs of that compute capability. The newest
//! row of each step counts, so that a later failure turns it off again.

use serde_json::Value;

/// The rows of all cards: `steps.jsonl` of each run.
const ROWS: &str = include_str!("../../../benches/results/cards.jsonl");

/// What waits for a card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waits {
    /// Decode steps from graphs of launches: `engine.graphs = "auto"`.
    Graphs,
    /// The kernels of Hopper's own instructions, where `HAGGLE_SM90` is not set.
    Hopper,
    /// Programmatic dependent launches in those graphs, where `HAGGLE_PDL` is not set.
    Pdl,
}

impl Waits {
    /// The steps of `gpu_check` that must have passed.
    fn steps(self) -> &'static [&'static str] {
        match self {
            Waits::Graphs => &["doctor", "tests", "step"],
            Waits::Hopper => &["probe", "doctor", "tests"],
            Waits::Pdl => &["doctor", "tests", "step", "pdl"],
        }
    }

    /// What it is, in words.
    fn words(self) -> &'static str {
        match self {
            Waits::Graphs => "graphs of decode steps",
            Waits::Hopper => "Hopper's own kernels",
            Waits::Pdl => "programmatic dependent launches",
        }
    }
}

/// The verdict of the rows on a kind of GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// On, where nobody says otherwise.
    pub on: bool,
    /// On or off, and by which row.
    pub why: String,
}

/// What the recorded rows say of GPUs of a compute capability, major and minor.
pub fn verdict(waits: Waits, capability: [i32; 2]) -> Verdict {
    of(ROWS, waits, capability)
}

fn of(rows: &str, waits: Waits, [major, minor]: [i32; 2]) -> Verdict {
    let own = format!("{major}.{minor}");
    let rows: Vec<Value> = rows.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let newest = |step: &&str| {
        rows.iter().rfind(|row| row["compute_cap"] == own.as_str() && row["step"] == *step).ok_or(step.to_string())
    };
    let passed = |row: &&Value| row["failed"] == 0 && row["of"].as_u64().is_some_and(|n| n > 0);
    let told = |row: &Value| {
        let text = |key: &str| row[key].as_str().unwrap_or("?").to_string();
        format!("{} on {} ({}, {})", text("step"), text("gpu"), text("commit"), text("date"))
    };
    let found: Result<Vec<&Value>, String> = waits.steps().iter().map(newest).collect();
    let (on, why) = match found {
        Err(step) => (false, format!("no sm_{major}{minor} has a recorded row of gpu_check's step `{step}`")),
        Ok(rows) => match rows.iter().find(|row| !passed(row)) {
            Some(row) => (false, format!("failed {}", told(row))),
            None => (true, format!("passed {}", rows.iter().map(|row| told(row)).collect::<Vec<_>>().join(", "))),
        },
    };
    Verdict { on, why: format!("{} {}: {why}", waits.words(), if on { "on" } else { "off" }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(step: &str, capability: &str, failed: u32) -> String {
        let row = serde_json::json!({
            "gpu": "a card", "compute_cap": capability, "commit": "abc1234", "date": "2026-12-01", "step": step, "failed": failed, "of": 7,
        });
        format!("{row}\n")
    }

    #[test]
    fn every_committed_row_can_be_read() {
        for line in ROWS.lines() {
            let row: Value = serde_json::from_str(line).unwrap();
            assert!(row["compute_cap"].is_string() && row["step"].is_string() && row["of"].is_u64(), "{line}");
        }
    }

    #[test]
    fn nothing_is_on_without_a_row() {
        let Verdict { on, why } = of("", Waits::Graphs, [9, 0]);
        assert!(!on);
        assert_eq!(why, "graphs of decode steps off: no sm_90 has a recorded row of gpu_check's step `doctor`");
    }

    #[test]
    fn all_its_steps_must_have_passed_on_that_kind_of_card() {
        let rows = ["probe", "doctor", "tests"].map(|step| row(step, "9.0", 0)).concat();
        assert!(of(&rows, Waits::Hopper, [9, 0]).on);
        assert!(!of(&rows, Waits::Hopper, [8, 0]).on, "another kind");
        assert!(!of(&rows, Waits::Graphs, [9, 0]).on, "no row of `step`");
        let graphs = rows.clone() + &row("step", "9.0", 0);
        assert!(of(&graphs, Waits::Graphs, [9, 0]).on);
        assert!(!of(&graphs, Waits::Pdl, [9, 0]).on, "no row of `pdl`");
        assert!(of(&(graphs.clone() + &row("pdl", "9.0", 0)), Waits::Pdl, [9, 0]).on);
        assert!(of(&(graphs + &row("pdl", "9.0", 1)), Waits::Graphs, [9, 0]).on, "what fails alone is off alone");
        let Verdict { on, why } = of(&(rows + &row("tests", "9.0", 1)), Waits::Hopper, [9, 0]);
        assert!(!on, "the newest row counts");
        assert_eq!(why, "Hopper's own kernels off: failed tests on a card (abc1234, 2026-12-01)");
    }

    #[test]
    fn a_step_that_ran_nothing_proves_nothing() {
        let rows =
            ["probe", "doctor", "tests"].map(|step| row(step, "9.0", 0)).concat().replace("\"of\":7", "\"of\":0");
        assert!(!of(&rows, Waits::Hopper, [9, 0]).on);
    }
}
