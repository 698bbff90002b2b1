//! Combinations of keys that cannot work, each named with what to change.

use super::Config;
use super::read::Found;

/// Notes every impossible combination.
pub fn check(config: &Config, found: &mut Found) {
    let on_cpu = ["auto", "cpu"].contains(&config.device.as_str());
    if config.model.dtype == "bf16" && on_cpu {
        found.problem(
            "model.dtype",
            "the cpu computes in f32; set f32, or --device emu or cuda, or model.matmul_precision = \"medium\"",
        );
    }
    if config.model.matmul_precision == "medium" && !on_cpu {
        found.problem("model.matmul_precision", "medium is for the cpu; set highest, or model.dtype = \"bf16\"");
    }
    if config.engine.graphs == "on" && ["auto", "cpu"].contains(&config.device.as_str()) {
        found.problem("engine.graphs", "the cpu launches no kernels; set auto, or --device emu or cuda");
    }
    check_rollout(config, found);
    check_grpo(config, found);
    super::credit::check(config, found);
    super::seller::check(config, found);
    super::lora::check(config, found);
    super::dist::check(config, found);
    super::mix::check(config, found);
}

fn check_rollout(config: &Config, found: &mut Found) {
    let rollout = &config.rollout;
    if rollout.group_size == 1 {
        found.problem(
            "rollout.group_size",
            "a group of 1 has a mean-centred advantage of 0 and teaches nothing; use 2 or more",
        );
    }
    if rollout.constrain && config.task.name != "game" {
        let what =
            format!("a reply of task `{}` is a set, which no rule of the game guides; set false", config.task.name);
        found.problem("rollout.constrain", &what);
    }
    let whole = "training needs the probability under the whole softmax";
    if rollout.top_k != 0 {
        found.problem("rollout.top_k", &format!("{whole}; set 0"));
    }
    if rollout.top_p != 1.0 {
        found.problem("rollout.top_p", &format!("{whole}; set 1.0 (chat takes --top-p)"));
    }
    if rollout.min_p != 0.0 {
        found.problem("rollout.min_p", &format!("{whole}; set 0.0"));
    }
}

fn check_grpo(config: &Config, found: &mut Found) {
    let grpo = &config.grpo;
    let rollouts = config.rollout.products_per_step * config.rollout.group_size;
    if grpo.optimizer_steps_per_batch > rollouts {
        found.problem(
            "grpo.optimizer_steps_per_batch",
            &format!(
                "{} steps on a batch of {rollouts} rollouts; use at most that many",
                grpo.optimizer_steps_per_batch
            ),
        );
    }
    if grpo.micro_batch_tokens < config.rollout.max_reply_tokens {
        found.problem("grpo.micro_batch_tokens", "is below rollout.max_reply_tokens, so no episode fits; raise it");
    }
}
