//! Games split at random: what is learned on one part and checked on another.
//!
//! The one idea: a cell's games are told apart by their number alone, so a split needs no rows; where games come in
//! clusters, a cluster goes as a whole.

use super::games::{Cell, Games, Part, Tally};
use crate::noise::Noise;

/// Above this many games of a kind in a cell, their split is drawn from its normal limit.
const MANY: f64 = 1e6;

/// `k` parts of all games.
pub fn split(games: &Games, k: usize, noise: Noise) -> Vec<Games> {
    match &games.parts {
        Some(parts) => (0..k).map(|fold| by_cluster(games, parts, k, fold, noise)).collect(),
        None => thinned(games, k, noise),
    }
}

/// All games but those of one part.
pub fn rest(games: &Games, part: &Games) -> Games {
    let less = |x: Tally, y: Tally| Tally { a: x.a - y.a, b: x.b - y.b, tie: x.tie - y.tie };
    let cells = games.cells.iter().zip(&part.cells).map(|(all, own)| Cell {
        won: less(all.won, own.won),
        squares: less(all.squares, own.squares),
        games: all.games - own.games,
        ..*all
    });
    let parts = games.parts.as_ref().zip(part.parts.as_ref()).map(|(all, own)| {
        // Both are sorted by cluster, and a cluster is in one of them whole.
        let held =
            |part: &&Part| own.binary_search_by_key(&(part.cluster, part.cell), |p| (p.cluster, p.cell)).is_err();
        all.iter().filter(held).copied().collect()
    });
    Games { cells: cells.collect(), parts, clusters: games.clusters.saturating_sub(part.clusters), ..games.clone() }
}

fn by_cluster(games: &Games, parts: &[Part], k: usize, fold: usize, noise: Noise) -> Games {
    let inside = |cluster: usize| noise.below(cluster as u64, k) == fold;
    let kept: Vec<Part> = parts.iter().filter(|part| inside(part.cluster)).copied().collect();
    let mut cells: Vec<Cell> = games
        .cells
        .iter()
        .map(|cell| Cell { won: Tally::default(), squares: Tally::default(), games: 0.0, ..*cell })
        .collect();
    for part in &kept {
        let (cell, all) = (&mut cells[part.cell], &games.cells[part.cell]);
        cell.won = cell.won.plus(part.won);
        let share = part.won.total() / all.won.total().max(f64::MIN_POSITIVE);
        cell.squares = cell.squares.plus(all.squares.times(share));
        cell.games += all.games * share;
    }
    let clusters = kept.chunk_by(|x, y| x.cluster == y.cluster).count();
    Games { cells, parts: Some(kept), clusters, ..games.clone() }
}

fn thinned(games: &Games, k: usize, noise: Noise) -> Vec<Games> {
    let mut folds = vec![Games { cells: Vec::with_capacity(games.cells.len()), ..games.clone() }; k];
    for (at, cell) in games.cells.iter().enumerate() {
        let noise = noise.child(at as u64);
        let a = dealt(cell.won.a, cell.squares.a, k, noise.child(0));
        let b = dealt(cell.won.b, cell.squares.b, k, noise.child(1));
        let tie = dealt(cell.won.tie, cell.squares.tie, k, noise.child(2));
        for (fold, games) in folds.iter_mut().enumerate() {
            let of = |all: f64, share: &[f64]| all * share[fold];
            let won = Tally { a: of(cell.won.a, &a), b: of(cell.won.b, &b), tie: of(cell.won.tie, &tie) };
            let squares =
                Tally { a: of(cell.squares.a, &a), b: of(cell.squares.b, &b), tie: of(cell.squares.tie, &tie) };
            let share = won.total() / cell.won.total().max(f64::MIN_POSITIVE);
            games.cells.push(Cell { won, squares, games: cell.games * share, ..*cell });
        }
    }
    folds
}

/// The share of games of one kind that each of `k` folds gets; their mean weight is `squares / won`.
fn dealt(won: f64, squares: f64, k: usize, noise: Noise) -> Vec<f64> {
    let n = if squares > 0.0 { won * won / squares } else { 0.0 };
    let (whole, mut counts) = (n.floor(), vec![0.0; k]);
    if whole > MANY {
        let mut left = whole;
        for fold in 0..k - 1 {
            let p = 1.0 / (k - fold) as f64;
            let drawn = (left * p + (left * p * (1.0 - p)).sqrt() * noise.normal(fold as u64)).round().clamp(0.0, left);
            counts[fold] = drawn;
            left -= drawn;
        }
        counts[k - 1] = left;
    } else {
        (0..whole as u64).for_each(|game| counts[noise.below(game, k)] += 1.0);
    }
    counts[noise.below(u64::MAX, k)] += n - whole;
    counts.into_iter().map(|count| if n > 0.0 { count / n } else { 0.0 }).collect()
}

#[cfg(test)]
mod tests {
    use super::super::count::{Counter, Row};
    use super::*;

    #[test]
    fn a_split_loses_nothing_and_keeps_clusters_whole() {
        for clustered in [false, true] {
            let mut counter = Counter::default();
            for i in 0..300_u32 {
                let (a, b) = (["x", "y", "z"][i as usize % 3], ["z", "x", "y"][i as usize % 3]);
                let won =
                    [Tally { a: 1.0, ..Tally::default() }, Tally { tie: 1.0, ..Tally::default() }][i as usize % 2];
                let name = (i / 4).to_string();
                let cluster = clustered.then_some(name.as_str());
                counter.add(Row { a, b, won, category: "c", persona: "", cluster, weight: 0.5, features: &[] });
            }
            let games = counter.finish();
            let folds = split(&games, 5, Noise::new(3, 0));
            for (at, cell) in games.cells.iter().enumerate() {
                let sum = folds.iter().fold(Tally::default(), |sum, fold| sum.plus(fold.cells[at].won));
                assert!(
                    (sum.a - cell.won.a).abs() + (sum.b - cell.won.b).abs() + (sum.tie - cell.won.tie).abs() < 1e-9
                );
            }
            let sizes: Vec<f64> = folds.iter().map(Games::games).collect();
            assert!(sizes.iter().all(|n| *n > 30.0 && *n < 90.0), "{sizes:?}");
            let rest = rest(&games, &folds[0]);
            assert!((rest.games() + folds[0].games() - 300.0).abs() < 1e-9);
            if let (Some(own), Some(others)) = (&folds[0].parts, &rest.parts) {
                assert!(own.iter().all(|part| others.iter().all(|other| other.cluster != part.cluster)));
                assert_eq!(rest.clusters + folds[0].clusters, games.clusters);
            }
        }
    }
}
