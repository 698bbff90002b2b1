//! Steps from which nothing can be learned: told the first time, then counted.
//!
//! The one idea: a run whose every reply breaks the rules ends with a table and exit code 0 all the same, so somebody must
//! say it while it goes on.

use crate::run::barren::{BARREN, Barren};
use crate::run::metrics::Metrics;
use serde_json::Value;

/// Barren steps of a run.
#[derive(Debug, Default)]
pub struct Told {
    steps: usize,
    /// By kind, as in [`BARREN`].
    counts: [usize; 4],
    void: [u64; 2],
}

impl Told {
    /// Takes a step's row; a line where it is the first of its kind.
    pub fn hear(&mut self, row: &Metrics) -> Option<String> {
        self.steps += 1;
        let why = Barren::of(row)?;
        let count = BARREN.iter().position(|kind| *kind == why).map(|at| &mut self.counts[at])?;
        *count += 1;
        let step = row.get("step").and_then(Value::as_u64).unwrap_or(0);
        (*count == 1).then(|| format!("step {step}: warning: {}, {}", why.what(), why.advice()))
    }

    /// Takes a step's row; a line where it is the first with void episodes.
    pub fn hear_void(&mut self, row: &Metrics) -> Option<String> {
        let number = |key: &str| row.get(key).and_then(Value::as_u64).unwrap_or(0);
        let void = number("rollout/void");
        self.void = [self.void[0] + u64::from(void > 0), self.void[1] + void];
        (void > 0 && self.void[0] == 1).then(|| {
            format!(
                "step {}: warning: the seller's server left {void} episodes without a reply; they are void and in no mean; \
                 episodes.jsonl holds why",
                number("step")
            )
        })
    }

    /// What the run's end has to say of them.
    pub fn summary(&self) -> Vec<String> {
        let line = |(n, why): (&usize, Barren)| format!("warning: {} in {n} of {} steps", why.what(), self.steps);
        let [steps, episodes] = self.void;
        let void =
            (steps > 1).then(|| format!("warning: {episodes} episodes were void, in {steps} of {} steps", self.steps));
        self.counts.iter().zip(BARREN).filter(|(n, _)| **n > 1).map(line).chain(void).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_barren_step_is_told_once_and_counted() {
        let row = |step: u64, broken: f64, constant: usize| -> Metrics {
            let mut row = Metrics::new();
            row.insert("step".into(), json!(step));
            row.insert("format_error_rate".into(), json!(broken));
            row.insert("rollout/constant_groups".into(), json!(constant));
            row.insert("rollout/groups".into(), json!(2));
            row
        };
        let mut barren = Told::default();
        let said: Vec<Option<String>> = [(0.5, 1), (1.0, 2), (1.0, 2), (0.0, 2), (0.0, 2), (0.0, 2)]
            .into_iter()
            .enumerate()
            .map(|(i, (broken, constant))| barren.hear(&row(i as u64 + 1, broken, constant)))
            .collect();
        let told: Vec<usize> = (0..6).filter(|i| said[*i].is_some()).collect();
        assert_eq!(told, [1, 3], "{said:?}");
        assert!(said[1].as_ref().is_some_and(|line| line.starts_with("step 2: warning: every episode")), "{said:?}");
        assert!(said[3].as_ref().is_some_and(|line| line.starts_with("step 4: warning: in every group")), "{said:?}");
        let ends = barren.summary();
        assert!(
            ends.len() == 2 && ends[0].ends_with("in 2 of 6 steps") && ends[1].ends_with("in 3 of 6 steps"),
            "{ends:?}"
        );
        assert!(Told::default().summary().is_empty());
    }

    #[test]
    fn void_episodes_are_told_once_and_counted() {
        let mut barren = Told::default();
        let said: Vec<Option<String>> = [0, 2, 3]
            .into_iter()
            .map(|void| {
                let row = Metrics::from_iter([("step".into(), json!(7)), ("rollout/void".into(), json!(void))]);
                barren.hear(&row);
                barren.hear_void(&row)
            })
            .collect();
        assert!(said[0].is_none() && said[2].is_none(), "{said:?}");
        assert!(said[1].as_ref().is_some_and(|line| line.contains("left 2 episodes")), "{said:?}");
        assert_eq!(barren.summary(), ["warning: 5 episodes were void, in 2 of 3 steps"]);
    }
}
