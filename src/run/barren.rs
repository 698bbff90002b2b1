//! Steps from which nothing can be learned, and why.
//!
//! The one idea: it is read off the step's row, once: the row itself says so (`warning`), and whoever shows a run, while it goes
//! on or later, shows the same.

use super::metrics::Metrics;
use serde_json::Value;

/// Entropy of the policy, in nats a token, below which rollouts hardly differ.
const CERTAIN: f64 = 1e-3;

/// Why a step teaches nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Barren {
    /// Every episode ended on a broken reply.
    Broken,
    /// All rollouts of every group earned the same.
    Constant,
    /// The policy is certain of every token.
    Certain,
    /// Something was not finite, and an update was skipped.
    NotFinite,
}

/// All of them, in the order of what comes first.
pub const BARREN: [Barren; 4] = [Barren::NotFinite, Barren::Broken, Barren::Constant, Barren::Certain];

impl Barren {
    /// What is wrong with a step's row, if anything.
    pub fn of(row: &Metrics) -> Option<Barren> {
        let number = |key: &str| row.get(key).and_then(Value::as_f64);
        let holds = |why: &Barren| match why {
            Barren::NotFinite => row.get("not_finite").is_some_and(Value::is_string),
            Barren::Broken => [number("format_error_rate"), number("sets/malformed")].contains(&Some(1.0)),
            Barren::Constant => {
                let groups = number("rollout/groups").filter(|groups| *groups > 0.0);
                groups.is_some() && number("rollout/constant_groups") == groups
            }
            Barren::Certain => number("policy/entropy").is_some_and(|entropy| entropy < CERTAIN),
        };
        BARREN.into_iter().find(holds)
    }

    /// The word in a row's `warning`.
    pub fn key(self) -> &'static str {
        match self {
            Barren::Broken => "broken",
            Barren::Constant => "constant_groups",
            Barren::Certain => "no_entropy",
            Barren::NotFinite => "not_finite",
        }
    }

    /// What happened, in a sentence.
    pub fn what(self) -> &'static str {
        match self {
            Barren::Broken => "every episode ended on a reply that breaks the protocol",
            Barren::Constant => "in every group all rollouts earned the same",
            Barren::Certain => "the policy was certain of every token",
            Barren::NotFinite => "something was not finite and an update was skipped",
        }
    }

    /// What follows from it, and what to try.
    pub fn advice(self) -> &'static str {
        match self {
            Barren::Broken => {
                "so there is nothing to learn; episodes.jsonl holds the replies. Does the model know this prompt style, and can \
                 rollout.max_reply_tokens hold a reply?"
            }
            Barren::Constant => {
                "so none is better than another; larger rollout.group_size or rollout.products_per_step make it rarer"
            }
            Barren::Certain => {
                "so its rollouts hardly differ; a lower optim.lr, grpo.entropy above 0 or a larger grpo.kl keep it open"
            }
            Barren::NotFinite => "so it learned less than was played; a lower optim.lr or optim.grad_clip may help",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_row_says_what_is_wrong_with_it_and_the_worst_first() {
        let row = |broken: f64, constant: usize, entropy: f64, lost: Value| -> Option<Barren> {
            Barren::of(&Metrics::from_iter([
                ("format_error_rate".into(), json!(broken)),
                ("rollout/groups".into(), json!(2)),
                ("rollout/constant_groups".into(), json!(constant)),
                ("policy/entropy".into(), json!(entropy)),
                ("not_finite".into(), lost),
            ]))
        };
        assert_eq!(row(0.5, 1, 0.1, Value::Null), None);
        assert_eq!(row(1.0, 2, 0.1, Value::Null), Some(Barren::Broken));
        assert_eq!(row(0.0, 2, 0.1, Value::Null), Some(Barren::Constant));
        assert_eq!(row(0.0, 0, 1e-5, Value::Null), Some(Barren::Certain));
        assert_eq!(row(1.0, 2, 0.1, json!("loss")), Some(Barren::NotFinite));
        assert_eq!(Barren::of(&Metrics::new()), None);
    }
}
