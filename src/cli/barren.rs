//! Steps from which nothing can be learned: told the first time, then counted.
//!
//! The one idea: a run whose every reply breaks the rules ends with a table and exit code 0 all the same, so somebody must
//! say it while it goes on.

use crate::run::metrics::Metrics;
use serde_json::Value;

/// Barren steps of a run.
#[derive(Debug, Default)]
pub struct Barren {
    /// Groups of a step.
    pub groups: usize,
    steps: usize,
    broken: usize,
    constant: usize,
    void: [u64; 2],
}

impl Barren {
    /// Takes a step's row; a line where it is the first of its kind.
    pub fn hear(&mut self, row: &Metrics) -> Option<String> {
        let number = |key: &str| row.get(key).and_then(Value::as_f64);
        let step = number("step").unwrap_or(0.0);
        self.steps += 1;
        if [number("format_error_rate"), number("sets/malformed")].contains(&Some(1.0)) {
            self.broken += 1;
            return (self.broken == 1).then(|| {
                format!(
                    "step {step}: warning: every episode ended on a reply that breaks the protocol, so there is nothing to learn; \
                     episodes.jsonl holds the replies. Does the model know this prompt style, and can rollout.max_reply_tokens \
                     hold a reply?"
                )
            });
        }
        if self.groups > 0 && number("rollout/constant_groups") == Some(self.groups as f64) {
            self.constant += 1;
            return (self.constant == 1).then(|| {
                format!(
                    "step {step}: warning: in every group all rollouts earned the same, so none is better than another; larger \
                     rollout.group_size or rollout.products_per_step make it rarer"
                )
            });
        }
        None
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
        let line = |n: usize, what: &str| format!("warning: {what} in {n} of {} steps", self.steps);
        let kinds = [
            (self.broken, "every episode ended on a reply that breaks the protocol"),
            (self.constant, "in every group all rollouts earned the same"),
        ];
        let [steps, episodes] = self.void;
        let void =
            (steps > 1).then(|| format!("warning: {episodes} episodes were void, in {steps} of {} steps", self.steps));
        kinds.into_iter().filter(|(n, _)| *n > 1).map(|(n, what)| line(n, what)).chain(void).collect()
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
            row
        };
        let mut barren = Barren { groups: 2, ..Barren::default() };
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
        assert!(Barren::default().summary().is_empty());
    }

    #[test]
    fn void_episodes_are_told_once_and_counted() {
        let mut barren = Barren::default();
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
