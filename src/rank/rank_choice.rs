//! How many patterns the categories share: the rank, chosen by games that were held out.
//!
//! The one idea: the smallest rank that predicts held-out games as well as the best one, up to one standard error of the
//! difference on the same games. Paired, the difference is known far better than either loss.

use super::Ties;
use super::btl::Fit;
use super::fit;
use super::folds::{rest, split};
use super::games::Games;
use super::shape::Shape;
use crate::noise::Noise;

/// Folds.
const FOLDS: usize = 5;
/// The largest rank that is tried.
const MOST: usize = 6;

/// Shapes by the number of patterns, from one shared ranking upwards.
pub fn shapes(games: &Games) -> Vec<Shape> {
    let (t, m) = games.shape();
    let of = |rank: usize| shape_of(games, rank);
    std::iter::once(Shape::Pooled).chain((1..=MOST.min(Shape::full(t, m))).filter_map(of)).collect()
}

/// The shape with `rank` patterns; `None` above what there can be.
pub fn shape_of(games: &Games, rank: usize) -> Option<Shape> {
    let ((t, m), personas) = (games.shape(), games.personas);
    if rank == 0 {
        return Some(Shape::Pooled);
    }
    if personas == 1 {
        return (rank <= Shape::full(t, m)).then_some(Shape::Rank(rank));
    }
    let (r2, r3) = (rank.min(t / personas), rank.min(personas));
    let r1 = rank.min(m - 1).min(r2 * r3);
    let fits = r1 == rank && r2 <= r1 * r3 && r3 <= r1 * r2;
    fits.then_some(Shape::Tucker { ranks: [r1, r2, r3], personas })
}

/// The chosen shape, and the mean held-out loss of each that was tried.
///
/// `None` when no shape could be fitted.
pub fn choose(games: &Games, ties: Ties, lambda: f64, seed: u64) -> Option<(Shape, Vec<(Shape, f64)>)> {
    let folds = split(games, FOLDS, Noise::new(seed, 0x666F_6C64));
    let begun = |fold: &Games| {
        let rest = rest(games, fold);
        let start = fit::start(&rest, ties)?;
        Some((rest, start))
    };
    let training: Vec<(Games, Fit)> = folds.iter().map(begun).collect::<Option<_>>()?;
    let mut tried: Vec<(Shape, Vec<Held>)> = Vec::new();
    for shape in shapes(games) {
        let held: Option<Vec<Held>> =
            training.iter().zip(&folds).map(|(rest, fold)| Held::of(rest, fold, shape, lambda)).collect();
        tried.extend(held.map(|held| (shape, held)));
    }
    let mean = |held: &[Held]| held.iter().map(|h| h.loss).sum::<f64>() / games.games().max(1.0);
    let best = tried.iter().min_by(|x, y| mean(&x.1).total_cmp(&mean(&y.1)))?;
    let as_good = |other: &&(Shape, Vec<Held>)| within_an_error(&folds, &other.1, &best.1);
    let chosen = tried.iter().find(as_good)?.0;
    Some((chosen, tried.iter().map(|(shape, held)| (*shape, mean(held))).collect()))
}

/// What a fit says of games it has not seen.
struct Held {
    loss: f64,
    /// Per cell the loss of a win, a defeat, a tie.
    of: Vec<[f64; 3]>,
}

impl Held {
    fn of((rest, start): &(Games, Fit), fold: &Games, shape: Shape, lambda: f64) -> Option<Held> {
        let fit = fit::rough(rest, shape, start, lambda)?;
        let gap = |c: &super::games::Cell| fit.theta[(c.category, c.a)] - fit.theta[(c.category, c.b)];
        let of: Vec<[f64; 3]> = fold.cells.iter().map(|cell| fit.link.losses(gap(cell))).collect();
        let one = |(cell, of): (&super::games::Cell, &[f64; 3])| {
            cell.won.a * of[0] + cell.won.b * of[1] + cell.won.tie * of[2]
        };
        Some(Held { loss: fold.cells.iter().zip(&of).map(one).sum(), of })
    }
}

/// True when the mean difference is at most its standard error, over games, or over clusters where there are some.
fn within_an_error(folds: &[Games], one: &[Held], best: &[Held]) -> bool {
    let (mut sum, mut squares) = (0.0, 0.0);
    for ((fold, one), best) in folds.iter().zip(one).zip(best) {
        let difference = |cell: usize, kind: usize| one.of[cell][kind] - best.of[cell][kind];
        let of = |cell: usize, won: [f64; 3]| (0..3).map(|kind| won[kind] * difference(cell, kind)).sum::<f64>();
        match &fold.parts {
            Some(parts) => {
                for cluster in parts.chunk_by(|x, y| x.cluster == y.cluster) {
                    let total: f64 = cluster.iter().map(|p| of(p.cell, [p.won.a, p.won.b, p.won.tie])).sum();
                    (sum, squares) = (sum + total, squares + total * total);
                }
            }
            None => {
                for (at, cell) in fold.cells.iter().enumerate() {
                    sum += of(at, [cell.won.a, cell.won.b, cell.won.tie]);
                    let by = [cell.squares.a, cell.squares.b, cell.squares.tie];
                    squares += (0..3).map(|kind| by[kind] * difference(at, kind).powi(2)).sum::<f64>();
                }
            }
        }
    }
    sum <= squares.sqrt()
}
