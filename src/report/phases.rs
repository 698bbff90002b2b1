//! The four phases of a buyer that learns, as the paper names them: naive bargaining, aggressive opening prices, deadlock,
//! sophisticated persuasion (Liu et al. 2026, arXiv:2604.09855, abstract).
//!
//! The one idea: the paper gives no numbers for them, so the rule here is ours and stated: each phase begins at an event in
//! the run's curves, and one whose event never comes does not show. It reads curves and nothing else.

use super::files::RunFiles;

/// A curve: `(step, value)`.
type Curve = [(f64, f64)];

/// The phases' names, in order.
pub const NAMES: [&str; 4] = ["naive", "aggressive openings", "deadlock", "persuasion"];

/// By how much the first offer over the budget has to fall for openings to be aggressive.
const OPENING: f64 = 0.05;

/// By how much the deal rate has to fall for a deadlock.
const DEALS: f64 = 0.08;

/// By how much the bargained ratio has to rise for deals to be better than a naive buyer's.
const BETTER: f64 = 0.02;

/// The rule, in words.
pub const RULE: &str = "\
Curves are means over a tenth of the run. Naive: from the start. Aggressive openings: the first offer over the budget has fallen by \
0.05 below its mean over the first tenth. Deadlock: after that the deal rate has fallen by 0.08 below its own. Persuasion: the deal \
rate has regained half of what it lost, and the bargained ratio stands 0.02 above its mean over the first tenth. The paper gives no \
numbers; these are ours.";

/// A phase: where it begins, or why it does not show.
#[derive(Debug, Clone, PartialEq)]
pub enum Phase {
    /// From this step on.
    From(f64),
    /// Why not.
    Missing(String),
}

/// The phases of a run, in the order of [`NAMES`]; none where a run has no such curves (a task of sets), or too few steps.
pub fn of(files: &RunFiles) -> Option<[Phase; 4]> {
    phases(&files.curve("first_offer_ratio"), &files.curve("deal_rate"), &files.curve("bargained_ratio"))
}

/// Fewest points of a curve that are read.
const SHORTEST: usize = 10;

fn phases(offers: &Curve, deals: &Curve, bargained: &Curve) -> Option<[Phase; 4]> {
    if [offers, deals, bargained].iter().any(|curve| curve.len() < SHORTEST) {
        return None;
    }
    let (offers, deals, bargained) = (Smooth::of(offers), Smooth::of(deals), Smooth::of(bargained));
    let naive = Phase::From(offers.first_step());
    let missing = |what: String| Phase::Missing(what);
    let later = |why: &str| missing(format!("{why} does not show"));
    let Some(opening) = offers.first(0.0, |offer| offer <= offers.start - OPENING) else {
        let why = missing(format!("the first offer never falls {OPENING} below {:.2}", offers.start));
        return Some([naive, why, later(NAMES[1]), later(NAMES[1])]);
    };
    let aggressive = Phase::From(opening);
    let Some(locked) = deals.first(opening, |rate| rate <= deals.start - DEALS) else {
        let why = missing(format!("the deal rate never falls {DEALS} below {:.2} after that", deals.start));
        return Some([naive, aggressive, why, later(NAMES[2])]);
    };
    let lowest = deals.lowest_from(locked);
    let regained = lowest.1 + (deals.start - lowest.1) / 2.0;
    let persuades = |step: f64| deals.at(step) >= regained && bargained.at(step) >= bargained.start + BETTER;
    let persuasion = match deals.steps().find(|step| *step > lowest.0 && persuades(*step)) {
        Some(step) => Phase::From(step),
        None => missing(format!("the deal rate does not come back to {regained:.2} with a better bargained ratio")),
    };
    Some([naive, aggressive, Phase::From(locked), persuasion])
}

/// A curve as means over a tenth of it, and its mean over the first tenth.
struct Smooth {
    points: Vec<(f64, f64)>,
    start: f64,
}

impl Smooth {
    fn of(curve: &Curve) -> Smooth {
        let half = (curve.len() / 20).max(1);
        let mean = |near: &Curve| near.iter().map(|p| p.1).sum::<f64>() / near.len() as f64;
        let around = |i: usize| &curve[i.saturating_sub(half)..(i + half + 1).min(curve.len())];
        let points = (0..curve.len()).map(|i| (curve[i].0, mean(around(i)))).collect();
        Smooth { points, start: mean(&curve[..(curve.len() / 10).max(1)]) }
    }

    fn first_step(&self) -> f64 {
        self.points[0].0
    }

    fn steps(&self) -> impl Iterator<Item = f64> {
        self.points.iter().map(|p| p.0)
    }

    /// The first step from `from` on at which a value holds.
    fn first(&self, from: f64, holds: impl Fn(f64) -> bool) -> Option<f64> {
        self.points.iter().find(|(step, value)| *step >= from && holds(*value)).map(|p| p.0)
    }

    /// The lowest point from a step on.
    fn lowest_from(&self, from: f64) -> (f64, f64) {
        let later = self.points.iter().filter(|p| p.0 >= from).copied();
        later.fold((from, f64::INFINITY), |low, p| if p.1 < low.1 { p } else { low })
    }

    /// The value at a step, or at the last one before it.
    fn at(&self, step: f64) -> f64 {
        self.points.iter().take_while(|p| p.0 <= step).last().map_or(self.start, |p| p.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(at: impl Fn(f64) -> f64) -> Vec<(f64, f64)> {
        (0..60).map(|step| (f64::from(step), at(f64::from(step)))).collect()
    }

    /// What the paper describes: openings fall from step 8, deals dip from 14 and come back from 24 on.
    fn described() -> [Vec<(f64, f64)>; 3] {
        let offers = curve(|x| if x < 8.0 { 0.9 } else { 0.6 });
        let deals = curve(|x| if (14.0..24.0).contains(&x) { 0.3 } else { 0.8 });
        [offers, deals, curve(|x| if x < 24.0 { 0.2 } else { 0.6 })]
    }

    fn steps(phases: &[Phase; 4]) -> Vec<Option<f64>> {
        phases.iter().map(|p| if let Phase::From(step) = p { Some(*step) } else { None }).collect()
    }

    #[test]
    fn four_phases_are_found_where_the_curves_show_them() {
        let [offers, deals, bargained] = described();
        let found = steps(&phases(&offers, &deals, &bargained).unwrap());
        let near = |at: usize, want: f64| found[at].is_some_and(|step| (step - want).abs() <= 4.0);
        assert!(near(0, 0.0) && near(1, 8.0) && near(2, 14.0) && near(3, 24.0), "{found:?}");
    }

    #[test]
    fn what_never_comes_does_not_show_and_neither_does_what_would_follow() {
        let [offers, deals, bargained] = described();
        let flat = curve(|_| 0.9);
        let found = phases(&flat, &deals, &bargained).unwrap();
        assert_eq!(steps(&found), [Some(0.0), None, None, None]);
        let found = phases(&offers, &flat, &bargained).unwrap();
        assert!(found[2] == Phase::Missing("the deal rate never falls 0.08 below 0.90 after that".into()), "{found:?}");
        assert!(matches!(found[3], Phase::Missing(_)));
        // Deals that come back at the old price are no persuasion.
        assert!(matches!(phases(&offers, &deals, &curve(|_| 0.2)).unwrap()[3], Phase::Missing(_)));
    }

    #[test]
    fn a_dip_before_the_openings_fall_is_no_deadlock() {
        let [_, deals, bargained] = described();
        let late = curve(|x| if x < 40.0 { 0.9 } else { 0.6 });
        assert!(matches!(phases(&late, &deals, &bargained).unwrap()[2], Phase::Missing(_)));
    }

    #[test]
    fn a_run_too_short_to_read_has_none() {
        let [offers, deals, bargained] = described();
        assert_eq!(phases(&offers[..9], &deals, &bargained), None);
    }
}
