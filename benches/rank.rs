//! Whether the intervals of `haggle rank` hold: simulated boards whose truth is known.
//!
//! `cargo bench --bench rank [-- --reps N] [--json] [--method NAME] [SCENARIO]`. A board is played N times (200) from one truth; a row says how
//! often the interval of a gap held, how often in the twentieth of gaps where fewest did, how often all gaps of a category
//! did at once, how long intervals were, in logits, and how many gaps had none; for the default, for the low rank taken as exact, and for each
//! category alone. The base scenario is that of the study; the others are troubled, on truths of their own. Speed beside
//! other programs: `tools/bench_rank`.

#![allow(clippy::unwrap_used)]

#[path = "../tests/rank/common.rs"]
mod rank_common;

use haggle::rank::board::board;
use haggle::rank::{Method, Options};
use rank_common::{Coverage, ODD, Trouble, World};
use std::time::Instant;

/// A truth and how often it is played: name, models, categories, games, what troubles it, the truth's seed.
type Scenario = (&'static str, usize, usize, usize, Trouble, u64);

const NONE: Trouble = Trouble { noise: 0.0, odd: 0.0, scenario: 0 };

const SCENARIOS: [Scenario; 8] = [
    ("base", 20, 10, 20_000, NONE, 1),
    ("fresh", 20, 10, 20_000, NONE, 2),
    ("noise", 20, 10, 20_000, Trouble { noise: 0.15, ..NONE }, 3),
    ("odd", 20, 10, 20_000, Trouble { odd: 1.2, ..NONE }, 4),
    ("scenarios", 20, 10, 20_000, Trouble { scenario: 5, ..NONE }, 5),
    ("few", 20, 10, 4_000, NONE, 6),
    ("small", 12, 6, 6_000, NONE, 7),
    ("small_noise_few", 12, 6, 1_500, Trouble { noise: 0.3, ..NONE }, 8),
];

const METHODS: [(&str, Method); 3] =
    [("adaptive", Method::Adaptive), ("lowrank", Method::LowRank), ("alone", Method::Btl)];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let json = args.iter().any(|arg| arg == "--json");
    let after = |name: &str| args.iter().position(|arg| arg == name).and_then(|at| args.get(at + 1));
    let reps: u64 = after("--reps").map_or(200, |n| n.parse().unwrap());
    let is_value = |at: usize| at > 0 && ["--reps", "--method"].contains(&args[at - 1].as_str());
    let only = args.iter().enumerate().find(|(at, arg)| !arg.starts_with("--") && !is_value(*at));
    if !json {
        println!(
            "{:<16} {:<9} {:>6} {:>6} {:>6} {:>7} {:>7} {:>7} {:>6}",
            "scenario", "method", "held", "worst", "all", "length", "unknown", "odd", "ms"
        );
    }
    for scenario in SCENARIOS.iter().filter(|scenario| only.is_none_or(|(_, name)| name == scenario.0)) {
        simulate(scenario, reps, json, after("--method").map(String::as_str));
    }
}

fn simulate(&(name, models, categories, games, trouble, seed): &Scenario, reps: u64, json: bool, only: Option<&str>) {
    let world = World::new(models, categories, trouble, seed);
    for (method_name, method) in METHODS.into_iter().filter(|(name, _)| only.is_none_or(|only| only == *name)) {
        let (mut all, mut odd, mut spent) = (Coverage::default(), Coverage::default(), 0.0);
        for rep in 0..reps {
            let played = world.play(games, trouble, 1000 * seed + rep);
            let start = Instant::now();
            let board = board(played, &Options { method, ..Options::default() }).unwrap();
            spent += start.elapsed().as_secs_f64();
            all.add(&board, &world.theta, |_, _, _| true);
            odd.add(&board, &world.theta, |t, a, b| t == ODD.0 && (a == ODD.1 || b == ODD.1));
        }
        let ms = 1e3 * spent / reps as f64;
        let of_odd = if trouble.odd != 0.0 { odd.pointwise() } else { f64::NAN };
        let row = [all.pointwise(), all.worst_twentieth(), all.simultaneous(), all.length(), all.unknown(), of_odd];
        if json {
            let [held, worst, together, length, unknown, odd] = row;
            let row = serde_json::json!({
                "case": format!("rank_{name}_{method_name}"), "reps": reps, "held": held, "worst_twentieth": worst,
                "simultaneous": together, "length": length, "unknown": unknown, "odd": odd, "ms": ms,
            });
            println!("{row}");
        } else {
            let [held, worst, together, length, unknown, odd] = row;
            println!(
                "{name:<16} {method_name:<9} {held:>6.3} {worst:>6.3} {together:>6.3} {length:>7.3} {unknown:>7.4} {odd:>7.3} {ms:>6.0}"
            );
        }
    }
}
