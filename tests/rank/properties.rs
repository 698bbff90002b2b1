//! What must not change a ranking, and what it becomes at its ends.

use crate::common::{Coverage, Trouble, World};
use haggle::rank::board::{Board, board};
use haggle::rank::btl;
use haggle::rank::count::{Counter, Row};
use haggle::rank::estimate::{groups, lone};
use haggle::rank::fit;
use haggle::rank::games::Games;
use haggle::rank::influence::{Influence, Spread};
use haggle::rank::linalg::Matrix;
use haggle::rank::moments::{Moments, Scale};
use haggle::rank::shape::Shape;
use haggle::rank::{Family, Method, Options, Ties};

const METHODS: [Method; 6] =
    [Method::Adaptive, Method::LowRank, Method::OneStep, Method::Whitened, Method::Btl, Method::Pooled];

fn games(models: usize, categories: usize, n: usize) -> Games {
    World::new(models, categories, Trouble::default(), 4).play(n, Trouble::default(), 9)
}

fn made(games: &Games, method: Method) -> Board {
    board(games.clone(), &Options { method, ..Options::default() }).unwrap()
}

/// The same games counted anew: rows and sides changed by `turn`, names by `name`.
fn recounted(games: &Games, name: impl Fn(usize) -> String, backwards: bool, times: usize) -> Games {
    let mut counter = Counter::default();
    let mut cells: Vec<usize> = (0..games.cells.len()).collect();
    if backwards {
        cells.reverse();
    }
    for _ in 0..times {
        for cell in cells.iter().map(|at| &games.cells[*at]) {
            let (a, b, category) = (name(cell.a), name(cell.b), &games.categories[cell.category]);
            let row =
                Row { a: &a, b: &b, won: cell.won, category, persona: "", cluster: None, weight: 1.0, features: &[] };
            let swapped = Row { a: &b, b: &a, won: cell.won.swapped(), ..row };
            counter.add(if backwards { swapped } else { row });
        }
    }
    counter.finish()
}

#[track_caller]
fn gaps_close(what: &str, x: &Board, y: &Board, y_of: impl Fn(usize) -> usize, se_by: f64, tolerance: f64) {
    for (one, other) in x.categories.iter().zip(&y.categories) {
        for gap in &one.gaps {
            let (a, b) = (y_of(gap.a), y_of(gap.b));
            let found = other.gaps.iter().find(|g| (g.a, g.b) == (a.min(b), a.max(b))).unwrap();
            let sign = if a < b { 1.0 } else { -1.0 };
            let ([size, se], [other_size, other_se]) = (gap.known.unwrap(), found.known.unwrap());
            assert!((size - sign * other_size).abs() < tolerance, "{what}: {size} {other_size}");
            assert!((se - se_by * other_se).abs() < tolerance, "{what}: {se} {other_se}");
        }
    }
}

#[test]
fn order_of_rows_and_sides_leave_every_bit() {
    let games = games(7, 5, 4000);
    let turned = recounted(&games, |model| games.models[model].clone(), true, 1);
    for method in METHODS {
        assert_eq!(made(&games, method).json().to_string(), made(&turned, method).json().to_string(), "{method:?}");
    }
}

#[test]
fn names_of_models_change_no_gap() {
    let games = games(7, 5, 4000);
    let (m, renamed) = (games.models.len(), recounted(&games, |model| format!("m{}", 9 - model), false, 1));
    for method in [Method::LowRank, Method::Btl, Method::Pooled] {
        gaps_close(&format!("{method:?}"), &made(&games, method), &made(&renamed, method), |a| m - 1 - a, 1.0, 1e-7);
    }
    // The residual's spread is searched for, so its last digits follow the order of sums.
    let options = Options { rank: Some(2), ..Options::default() };
    let [one, other] = [&games, &renamed].map(|games| board(games.clone(), &options).unwrap());
    gaps_close("adaptive", &one, &other, |a| m - 1 - a, 1.0, 1e-5);
}

#[test]
fn a_doubled_file_has_the_same_ratings_and_errors_over_the_root_of_two() {
    let games = games(7, 5, 4000);
    let doubled = recounted(&games, |model| games.models[model].clone(), false, 2);
    for method in [Method::LowRank, Method::Btl, Method::Pooled] {
        let of =
            |games: &Games| board(games.clone(), &Options { method, rank: Some(2), ..Options::default() }).unwrap();
        gaps_close(&format!("{method:?}"), &of(&games), &of(&doubled), |a| a, 2.0_f64.sqrt(), 1e-7);
    }
}

#[test]
fn a_full_rank_and_one_category_are_each_alone() {
    let one = games(8, 1, 1500);
    let alone = made(&one, Method::Btl);
    let options = Options { method: Method::LowRank, rank: Some(1), ..Options::default() };
    gaps_close("one category", &alone, &board(one, &options).unwrap(), |a| a, 1.0, 1e-7);
    let several = games(6, 5, 5000);
    let options = Options { rank: Some(5), ..options };
    gaps_close("full rank", &made(&several, Method::Btl), &board(several, &options).unwrap(), |a| a, 1.0, 1e-7);
}

#[test]
fn the_residual_ends_in_the_low_rank_and_in_each_alone() {
    let games = games(8, 5, 6000);
    let fit = fit::fit(&games, Shape::Rank(1), Ties::Half, 0.0).unwrap();
    let maps = Shape::Rank(1).tangent(&fit.theta).unwrap();
    let moments = Moments::at(&games, &fit.theta, fit.link, Scale::Score);
    let covariance = |influence: &Influence| influence.covariance(&lone(5, 2), Spread::Model);
    let off = |x: &Matrix, y: &Matrix| {
        let gap = |c: &Matrix, a, b| haggle::rank::bands::gap_variance(c, a, b);
        (1..8).map(|b| (gap(x, 0, b) / gap(y, 0, b) - 1.0).abs()).fold(0.0, f64::max)
    };
    let shared = Influence::shared(&maps, &moments, 0.0).unwrap();
    let none = Influence::residual(&maps, &moments, 0.0, 1e-12).unwrap();
    assert!(off(&covariance(&none), &covariance(&shared)) < 1e-6);
    assert!((none.moved(&moments) - shared.moved(&moments)).norm_max() < 1e-6);
    let groups = groups(&games);
    let local: Vec<Matrix> = moments.info.iter().zip(&groups).map(|(i, g)| btl::inverse(i, g).unwrap()).collect();
    let alone = Influence::local(local, &moments).unwrap();
    let endless = Influence::residual(&maps, &moments, 1e-9, 1e6).unwrap();
    assert!(off(&covariance(&endless), &covariance(&alone)) < 1e-3);
}

#[test]
fn a_band_of_the_board_holds_more_than_one_of_a_category_or_a_model() {
    let games = games(8, 5, 6000);
    let critical = |family| {
        let options = Options { family, method: Method::Btl, ..Options::default() };
        board(games.clone(), &options).unwrap().categories[0].critical
    };
    let (model, category, whole) = (critical(Family::Model), critical(Family::Category), critical(Family::Board));
    assert!(1.96 < model && model < category && category < whole, "{model} {category} {whole}");
}

#[test]
fn ties_by_davidson_and_clusters_are_estimated_by_every_method() {
    let trouble = Trouble { scenario: 5, ..Trouble::default() };
    let clustered = World::new(7, 4, trouble, 3).play(4000, trouble, 1);
    for method in METHODS {
        for ties in [Ties::Half, Ties::Davidson, Ties::Drop] {
            let made = board(clustered.clone(), &Options { method, ties, ..Options::default() }).unwrap();
            assert_eq!(made.clusters, 400);
            let finite = |gap: &haggle::rank::board::Gap| gap.known.is_some_and(|[x, se]| x.is_finite() && se > 0.0);
            assert!(made.categories.iter().all(|c| c.gaps.iter().all(finite)), "{method:?} {ties:?}");
        }
    }
}

#[test]
fn intervals_hold_as_often_as_they_say_on_a_board_of_low_rank() {
    let world = World::new(12, 6, Trouble::default(), 2);
    let [mut adaptive, mut alone] = [Coverage::default(), Coverage::default()];
    for rep in 0..24 {
        let games = world.play(6000, Trouble::default(), 100 + rep);
        adaptive.add(&made(&games, Method::Adaptive), &world.theta, |_, _, _| true);
        alone.add(&made(&games, Method::Btl), &world.theta, |_, _, _| true);
    }
    // 24 boards of 396 gaps that move together: a standard error of about 0.009. `cargo bench --bench rank` plays hundreds.
    assert!((0.91..0.98).contains(&adaptive.pointwise()), "adaptive: {}", adaptive.pointwise());
    assert!((0.92..0.98).contains(&alone.pointwise()), "alone: {}", alone.pointwise());
    assert!(adaptive.length() < 0.85 * alone.length(), "{} {}", adaptive.length(), alone.length());
    assert!(adaptive.simultaneous() > 0.80, "{}", adaptive.simultaneous());
}
