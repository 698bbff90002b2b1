//! Evaluation during training: every `eval.every` steps, and after the last one, the policy plays its rows of the final table.
//!
//! The one idea: it plays the final table's games with the final table's code, in the engines of training, and changes
//! nothing that training reads. What it finds are keys of the step's row of metrics, so that whatever keeps, resumes and shows
//! that row does so with them; the best one's checkpoint is kept. Chosen on the held-out products, its reward there flatters it.

use crate::config::Config;
use crate::run::checkpoint::{Best, State};
use crate::run::metrics::Metrics;
use serde_json::{Value, json};

/// The reward that the best checkpoint is chosen by, a key of a row of metrics.
pub const REWARD: &str = "held_out/reward";
/// The step of the best one so far, a key of a row of metrics.
pub const BEST_STEP: &str = "held_out/best_step";

/// Whether an evaluation follows this step.
pub fn is_due(config: &Config, step: u64) -> bool {
    let every = config.eval.every as u64;
    every > 0 && (step.is_multiple_of(every) || step == config.grpo.steps as u64)
}

/// Evaluations of a whole run.
pub fn count(config: &Config) -> usize {
    let (steps, every) = (config.grpo.steps, config.eval.every);
    if every == 0 { 0 } else { steps.div_ceil(every) }
}

/// Adds what an evaluation found after the state's step to the step's row; whether it is the best so far.
pub fn note(found: Metrics, seconds: f64, state: &mut State, row: &mut Metrics) -> bool {
    row.extend(found.into_iter().map(|(key, value)| (format!("held_out/{key}"), value)));
    // Of games that are all void nothing is known.
    if let Some(reward) = row.get(REWARD).and_then(Value::as_f64) {
        state.best = Some(Best::of(state.best, state.step, reward));
    }
    row.insert(BEST_STEP.into(), json!(state.best.map(|best| best.step)));
    row.insert("time/held_out_s".into(), json!(seconds));
    state.best.is_some_and(|best| best.step == state.step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_follows_every_nth_step_and_the_last_one() {
        let mut config = Config::default();
        config.grpo.steps = 10;
        for (every, due) in [(0, vec![]), (4, vec![4, 8, 10]), (5, vec![5, 10]), (99, vec![10])] {
            config.eval.every = every;
            assert_eq!((1..=10).filter(|step| is_due(&config, *step)).collect::<Vec<u64>>(), due);
            assert_eq!(count(&config), due.len());
        }
    }

    #[test]
    fn the_best_is_the_first_of_the_highest_reward() {
        let mut best = None;
        for (step, reward) in [(1, -0.5), (2, 0.25), (3, 0.25), (4, -1.0), (5, 0.3)] {
            best = Some(Best::of(best, step, reward));
            assert_eq!(best.unwrap().step, [1, 2, 2, 2, 5][step as usize - 1]);
        }
    }
}
