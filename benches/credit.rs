//! Credit of candidate sets on one thread: sets a second at K = 8, 16, 32.
//!
//! `cargo bench --bench credit [-- --json]`. `max` is the closed form; `table` is exact from all 2^K values of a top-2 sum, worths
//! included; `sampled` is 256 antithetic pairs of the same. A call has 256 sets, as a step has; what goes to the device and back is
//! counted.

#![allow(clippy::unwrap_used)]

use haggle::credit::set::{Set, Worth};
use haggle::device::Device;
use haggle::noise::Noise;
use haggle::tasks::sets::shapley;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Least time a case is measured.
const LEAST: Duration = Duration::from_millis(500);

/// Sets of a call.
const SETS: u64 = 256;

/// Sets a second.
fn rate(mut one: impl FnMut()) -> f64 {
    let (start, mut n) = (Instant::now(), 0u64);
    while start.elapsed() < LEAST {
        one();
        n += 1;
    }
    (n * SETS) as f64 / start.elapsed().as_secs_f64()
}

fn main() {
    let json = std::env::args().any(|arg| arg == "--json");
    let say = |k: usize, rule: &str, rate: f64| match json {
        true => println!(
            "{}",
            serde_json::json!({ "case": format!("credit_{rule}_{k}"), "threads": 1, "sets_per_s": rate })
        ),
        false => println!("{k:>4} {rule:<8} {rate:>14.0}"),
    };
    if !json {
        println!("{:>4} {:<8} {:>14}", "K", "rule", "sets/s");
    }
    for k in [8, 16, 32] {
        let noise = Noise::new(1, k as u64);
        let set = |s| Some(Set::of(&(0..k as u64).map(|i| noise.child(s).uniform_f64(i)).collect::<Vec<_>>()));
        let (dev, sets): (_, Vec<_>) = (Device::open("cpu", 1).unwrap(), (0..SETS).map(set).collect());
        let divide = |worth| rate(|| drop(shapley(&dev, black_box(&sets), worth, &|i| noise.child(i as u64)).unwrap()));
        say(k, "max", divide(Worth::Max));
        let name = if k <= 16 { "table" } else { "sampled" };
        let general = divide(Worth::TopSum { m: 2 });
        say(k, name, general);
    }
}
