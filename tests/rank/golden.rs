//! The algebra of `haggle rank` against goldens of other implementations, on the same rows.

use haggle::noise::Noise;
use haggle::rank::bands;
use haggle::rank::board::board;
use haggle::rank::btl::{self, Fit};
use haggle::rank::count::{Counter, Row};
use haggle::rank::covariates;
use haggle::rank::fit;
use haggle::rank::games::{Games, Tally};
use haggle::rank::graph::{Groups, Unknown, listed};
use haggle::rank::influence::{Influence, Spread, drift, information};
use haggle::rank::linalg::{Matrix, eigen};
use haggle::rank::link::Link;
use haggle::rank::moments::{Moments, Scale, clustered};
use haggle::rank::outliers::{self, By};
use haggle::rank::residual::Residual;
use haggle::rank::shape::Shape;
use haggle::rank::{Method, Options, Ties};
use serde_json::Value;
use std::path::PathBuf;

/// A golden; says so loudly and gives none where the folder is not there.
fn golden(name: &str) -> Option<Value> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/data/rank-golden");
    if !folder.is_dir() {
        eprintln!("SKIPPED: {name}: no goldens in {}; nothing was checked", folder.display());
        return None;
    }
    Some(serde_json::from_slice(&std::fs::read(folder.join(format!("{name}.json"))).unwrap()).unwrap())
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(number).collect()
}

fn matrix(value: &Value) -> Matrix {
    let rows: Vec<Vec<f64>> = value.as_array().unwrap().iter().map(numbers).collect();
    Matrix::from_fn(rows.len(), rows[0].len(), |i, j| rows[i][j])
}

/// Rows of `category, a, b, wins_a, wins_b, ties`, with a persona behind the category where there are some, or
/// `cluster, category, a, b, a_won`.
fn games(golden: &Value, rows: &str) -> Games {
    let name = |key: &str, at: &Value| golden[key][at.as_u64().unwrap() as usize].as_str().unwrap();
    let mut counter = Counter::default();
    for row in golden[rows].as_array().unwrap() {
        let row = row.as_array().unwrap();
        let (by_cluster, by_persona) = (golden["kind"] == "cluster", golden["personas"].is_array());
        let cluster = by_cluster.then(|| row[0].to_string());
        let at = usize::from(by_cluster);
        let persona = if by_persona { name("personas", &row[1]) } else { "" };
        let pair = at + 1 + usize::from(by_persona);
        let counts = numbers(&Value::from(row[pair + 2..].to_vec()));
        let won = match counts[..] {
            [a, b, tie] => Tally { a, b, tie },
            _ => Tally { a: counts[0], b: 1.0 - counts[0], tie: 0.0 },
        };
        let (a, b) = (name("models", &row[pair]), name("models", &row[pair + 1]));
        let category = name("categories", &row[at]);
        counter.add(Row { a, b, won, category, persona, cluster: cluster.as_deref(), weight: 1.0, features: &[] });
    }
    counter.finish()
}

#[track_caller]
fn close(what: &str, got: f64, want: f64, tolerance: f64) {
    assert!((got - want).abs() <= tolerance, "{what}: got {got}, want {want}, off by {:e}", (got - want).abs());
}

#[track_caller]
fn all_close(what: &str, got: &Matrix, want: &Matrix, tolerance: f64) {
    assert_eq!((got.nrows(), got.ncols()), (want.nrows(), want.ncols()), "{what}");
    for i in 0..got.nrows() {
        for j in 0..got.ncols() {
            close(&format!("{what} [{i}, {j}]"), got[(i, j)], want[(i, j)], tolerance);
        }
    }
}

fn at(golden: &Value, start: &str, link: Link) -> Fit {
    Fit { theta: matrix(&golden[start]), link, steps: 0, change: 0.0 }
}

fn share(t: usize, category: usize) -> Vec<f64> {
    (0..t).map(|s| f64::from(u8::from(s == category))).collect()
}

/// The standard error of a contrast `[category, a, b]`.
fn gap_se(influence: &Influence, t: usize, contrast: &Value, spread: Spread) -> f64 {
    let [category, a, b] = indices(contrast);
    bands::gap_variance(&influence.covariance(&share(t, category), spread), a, b).sqrt()
}

fn indices<const N: usize>(contrast: &Value) -> [usize; N] {
    std::array::from_fn(|i| contrast[i].as_u64().unwrap() as usize)
}

fn gap(theta: &Matrix, contrast: &Value) -> f64 {
    let [category, a, b] = indices(contrast);
    theta[(category, a)] - theta[(category, b)]
}

fn contrasts(expected: &Value) -> impl Iterator<Item = (usize, &Value)> {
    expected["contrasts"].as_array().unwrap().iter().enumerate()
}

#[test]
fn one_category_equals_arena_rank_and_choix() {
    for name in ["btl_plain", "btl_ties_half", "btl_reweighted", "btl_davidson"] {
        let Some(golden) = golden(name) else { return };
        let (mut games, expected, tolerance) = (games(&golden, "rows"), &golden["expected"], &golden["tolerance"]);
        if golden["options"]["weights"] == "pairs" {
            games = games.weighted_by_pairs(number(&golden["options"]["min_pair_count"]));
        }
        let ties = if golden["options"]["ties"] == "davidson" { Ties::Davidson } else { Ties::Half };
        let groups = vec![Groups::of(games.models.len(), games.of(0))];
        let fit = btl::fit(&games, &groups, ties, 0.0, 100).unwrap();
        let want = numbers(&expected["theta"]);
        for (model, want) in want.iter().enumerate() {
            close(&format!("{name}: theta {model}"), fit.theta[(0, model)], *want, number(&tolerance["theta"]));
        }
        let moments = Moments::at(&games, &fit.theta, fit.link, Scale::Score);
        let influence = Influence::local(vec![btl::inverse(&moments.info[0], &groups[0]).unwrap()], &moments).unwrap();
        let cov = number(&tolerance["cov"]);
        if expected["fisher_cov"].is_array() {
            all_close(name, &influence.covariance(&[1.0], Spread::Model), &matrix(&expected["fisher_cov"]), cov);
        }
        if expected["sandwich_cov"].is_array() {
            let got = influence.covariance(&[1.0], Spread::Games(&moments));
            all_close(name, &got, &matrix(&expected["sandwich_cov"]), cov);
        }
        if let (Link::Davidson { log_nu }, Some(nu)) = (fit.link, expected["nu"].as_f64()) {
            close("nu", log_nu.exp(), nu, number(&tolerance["nu"]));
        }
    }
}

#[test]
fn groups_that_never_met_have_no_gap() {
    for name in ["graph", "graph_unlinked"] {
        let Some(golden) = golden(name) else { return };
        let (games, expected) = (games(&golden, "rows"), &golden["expected"]);
        let (t, m) = games.shape();
        let groups: Vec<Groups> = (0..t).map(|category| Groups::of(m, games.of(category))).collect();
        for (category, want) in expected["components"].as_array().unwrap().iter().enumerate() {
            assert_eq!(serde_json::to_value(listed(&groups[category].met)).unwrap(), *want, "{name}");
        }
        for (category, want) in expected["finite_mle"].as_array().into_iter().flatten().enumerate() {
            let finite = groups[category].met == groups[category].finite;
            assert_eq!(finite, want.as_bool().unwrap(), "{name}, category {category}");
        }
        for (category, (kind, why)) in [
            (0, ("yes", None)),
            (0, ("no", Some(Unknown::Apart))),
            (1, ("yes", None)),
            (1, ("no", Some(Unknown::Apart))),
            (1, ("infinite", Some(Unknown::Infinite))),
        ] {
            let pairs = &expected["estimable_gaps_btl"][format!("category{category}")][kind];
            for pair in pairs.as_array().into_iter().flatten() {
                let [a, b] = indices(pair);
                assert_eq!(groups[category].unknown(a, b), why, "{name}: {category}, {a}, {b}");
            }
        }
        low_rank_joins(name, &games, expected, number(&golden["options"]["ridge"]));
    }
}

/// What a rank of 1 joins, and what it cannot.
fn low_rank_joins(name: &str, games: &Games, expected: &Value, ridge: f64) {
    let fit = fit::fit(games, Shape::Rank(1), Ties::Half, ridge).unwrap();
    if let Some(want) = expected["rank1_ridge_0.5"]["theta"].as_array() {
        all_close(name, &fit.theta, &matrix(&Value::from(want.clone())), 1e-6);
    }
    let maps = Shape::Rank(1).tangent(&fit.theta).unwrap();
    let moments = Moments::at(games, &fit.theta, fit.link, Scale::Score);
    let info = information(&maps, &drift(&maps, &moments), &moments, 0.0);
    let (values, _) = eigen(&info).unwrap();
    let rank = values.iter().filter(|v| **v > 1e-9 * values[values.len() - 1]).count();
    let (want_rank, want_dim) = match expected["information_rank"].as_u64() {
        Some(rank) => (rank, &expected["tangent_dim"]),
        None => (
            expected["rank1_ridge_0.5"]["information_rank"].as_u64().unwrap(),
            &expected["rank1_ridge_0.5"]["tangent_dim"],
        ),
    };
    assert_eq!((rank as u64, info.ncols() as u64), (want_rank, want_dim.as_u64().unwrap()), "{name}");
}

#[test]
fn low_rank_fits_and_their_errors_equal_a_second_implementation() {
    for name in ["lowrank_mle_r1", "lowrank_mle_r2", "tensor"] {
        let Some(golden) = golden(name) else { return };
        let (games, expected, tolerance) = (games(&golden, "rows"), &golden["expected"], &golden["tolerance"]);
        let personas = games.personas;
        let shape = match golden["options"]["ranks"].as_array() {
            Some(_) => Shape::Tucker { ranks: indices(&golden["options"]["ranks"]), personas },
            None => Shape::Rank(golden["options"]["rank"].as_u64().unwrap() as usize),
        };
        let fit = fit::fit(&games, shape, Ties::Half, 0.0).unwrap();
        let moments = Moments::at(&games, &fit.theta, fit.link, Scale::Score);
        close(name, moments.loss, number(&expected["nll"]), number(&tolerance["nll"]));
        let maps = shape.tangent(&fit.theta).unwrap();
        assert_eq!(maps[0].ncols() as u64, expected["tangent_dim"].as_u64().unwrap(), "{name}");
        let influence = Influence::shared(&maps, &moments, 0.0).unwrap();
        assert!(influence.moved(&moments).norm_max() < 1e-8, "{name}: a one-step correction of a maximum is nothing");
        let (t, se) = (games.categories.len(), number(&tolerance["se"]));
        for (i, contrast) in contrasts(expected) {
            let contrast = match shape {
                Shape::Tucker { .. } => {
                    let [j, k, a, b] = indices(contrast);
                    serde_json::json!([j * personas + k, a, b])
                }
                _ => contrast.clone(),
            };
            close(name, gap(&fit.theta, &contrast), number(&expected["gap"][i]), number(&tolerance["theta"]));
            let fisher = gap_se(&influence, t, &contrast, Spread::Model);
            close(name, fisher, number(&expected["gap_se_fisher"][i]), se);
            let sandwich = gap_se(&influence, t, &contrast, Spread::Games(&moments));
            close(name, sandwich, number(&expected["gap_se_sandwich"][i]), se);
        }
        if personas == 1 {
            all_close(name, &fit.theta, &matrix(&expected["theta"]), number(&tolerance["theta"]));
        }
    }
}

#[test]
fn one_step_estimates_of_split_data_equal_the_formula() {
    for name in ["onestep_r1", "onestep_r2"] {
        let Some(golden) = golden(name) else { return };
        let (aux, eval) = (games(&golden, "rows_aux"), games(&golden, "rows_eval"));
        let start = at(&golden, "start", Link::Half);
        let rank = golden["options"]["rank"].as_u64().unwrap() as usize;
        let (maps, tolerance) = (Shape::Rank(rank).tangent(&start.theta).unwrap(), number(&golden["tolerance"]["all"]));
        let (t, m) = eval.shape();
        for (mode, scale) in
            [("efficient", Scale::Score), ("white-closed", Scale::Whitened), ("white-solved", Scale::Whitened)]
        {
            let (of_aux, of_eval) = (
                Moments::at(&aux, &start.theta, start.link, scale),
                Moments::at(&eval, &start.theta, start.link, scale),
            );
            let influence = if mode == "white-closed" {
                let d = maps[0].ncols();
                let each = (t * (m - 1)) as f64 / (2.0 * eval.games());
                Influence::given(&maps, faer::Scale(each) * Matrix::identity(d, d))
            } else {
                Influence::shared(&maps, &of_aux, 0.0).unwrap().rescaled(eval.games() / aux.games())
            };
            let moved = influence.moved(&of_eval);
            for (i, contrast) in contrasts(&golden["expected"]) {
                let want = &golden["expected"][mode];
                let got = gap(&start.theta, contrast) + gap(&moved, contrast);
                close(&format!("{name} {mode} {i}"), got, number(&want["gap"][i]), tolerance);
                let centre = gap(&moved, contrast).powi(2) / eval.games();
                let se = (gap_se(&influence, t, contrast, Spread::Games(&of_eval)).powi(2) - centre).sqrt();
                close(&format!("{name} {mode} {i} se"), se, number(&want["gap_se"][i]), tolerance);
            }
        }
    }
}

#[test]
fn the_random_residual_equals_the_formula() {
    for name in ["residual_r1", "residual_r2"] {
        let Some(golden) = golden(name) else { return };
        let (games, expected, tolerance) = (games(&golden, "rows"), &golden["expected"], &golden["tolerance"]);
        let start = at(&golden, "start", Link::Half);
        let rank = golden["options"]["rank"].as_u64().unwrap() as usize;
        let maps = Shape::Rank(rank).tangent(&start.theta).unwrap();
        let moments = Moments::at(&games, &start.theta, start.link, Scale::Score);
        let residual = Residual::at(&maps, &moments, 0.0, Spread::Model).unwrap();
        close(name, residual.lack_of_fit(), number(&expected["lack_of_fit_z"]), number(&tolerance["lack_of_fit_z"]));
        let tau = residual.tau2().sqrt();
        close(name, tau, number(&expected["tau"]), number(&tolerance["tau"]));
        for (tau, want, tolerance) in [
            (tau, expected, number(&tolerance["gap"])),
            (0.2, &expected["at_tau_0_2"], number(&tolerance["at_tau_0_2"])),
        ] {
            let influence = Influence::residual(&maps, &moments, 0.0, tau * tau).unwrap();
            let moved = influence.moved(&moments);
            for (i, contrast) in contrasts(expected) {
                let got = gap(&start.theta, contrast) + gap(&moved, contrast);
                close(&format!("{name} at {tau}"), got, number(&want["gap"][i]), tolerance);
                let se = gap_se(&influence, games.categories.len(), contrast, Spread::Model);
                close(&format!("{name} se at {tau}"), se, number(&want["gap_se"][i]), tolerance);
            }
        }
    }
}

#[test]
fn a_planted_outlier_is_found_and_freed() {
    let Some(golden) = golden("outlier") else { return };
    let (games, expected, tolerance) = (games(&golden, "rows"), &golden["expected"], &golden["tolerance"]);
    let start = at(&golden, "start", Link::Half);
    let (t, m) = games.shape();
    close("critical", outliers::critical(t * m), number(&expected["critical_z"]), 1e-9);
    let moments = Moments::at(&games, &start.theta, start.link, Scale::Score);
    let maps = Shape::Rank(2).tangent(&start.theta).unwrap();
    let residual = Residual::at(&maps, &moments, 0.0, Spread::Model).unwrap();
    let want = matrix(&expected["rounds"][0]["cell_z_tau_0"]);
    for (at, z) in residual.cell_z().iter().enumerate() {
        close("cell z", *z, want[(at / m, at % m)], number(&tolerance["cell_z_tau_0"]));
    }
    close("tau", residual.tau2().sqrt(), number(&expected["rounds"][0]["tau_with_all"]), number(&tolerance["tau"]));
    let freed = outliers::free(&games, Shape::Rank(2), &start, 0.0, By::Model).unwrap();
    let found: Vec<[usize; 2]> = freed.outliers.iter().map(|o| [o.category, o.model]).collect();
    assert_eq!(serde_json::to_value(&found).unwrap(), expected["freed"]);
    let z = number(&expected["rounds"][0]["z_of_candidate"]).abs();
    close("z", freed.outliers[0].z.abs(), z, number(&tolerance["z_of_candidate"]));
    let moments = Moments::at(&games, &freed.fit.theta, freed.fit.link, Scale::Score);
    let influence = Influence::shared(&freed.maps, &moments, 0.0).unwrap();
    for (i, contrast) in contrasts(expected) {
        close("gap", gap(&freed.fit.theta, contrast), number(&expected["gap_after"][i]), number(&tolerance["gap"]));
        let se = gap_se(&influence, t, contrast, Spread::Model);
        close("se", se, number(&expected["gap_se_fisher_after"][i]), number(&tolerance["gap"]));
    }
}

#[test]
fn errors_by_cluster_equal_the_formula() {
    let Some(golden) = golden("cluster") else { return };
    let (games, expected) = (games(&golden, "rows"), &golden["expected"]);
    let fit = fit::fit(&games, Shape::Rank(1), Ties::Half, 0.0).unwrap();
    let tolerance = number(&golden["tolerance"]["se"]);
    all_close("theta", &fit.theta, &matrix(&expected["theta"]), number(&golden["tolerance"]["theta"]));
    let maps = Shape::Rank(1).tangent(&fit.theta).unwrap();
    let moments = Moments::at(&games, &fit.theta, fit.link, Scale::Score);
    let influence = Influence::shared(&maps, &moments, 0.0).unwrap();
    let meat = clustered(&games, games.parts.as_ref().unwrap(), &fit.theta, fit.link, Scale::Score);
    for (i, contrast) in contrasts(expected) {
        let iid = gap_se(&influence, 3, contrast, Spread::Games(&moments));
        close("iid", iid, number(&expected["gap_se_iid"][i]), tolerance);
        let clustered = gap_se(&influence, 3, contrast, Spread::Clusters(&meat));
        close("cluster", clustered, number(&expected["gap_se_cluster"][i]), tolerance);
    }
}

#[test]
fn bands_and_ranks_equal_many_draws() {
    for name in ["bands_r1", "bands_r2"] {
        let Some(golden) = golden(name) else { return };
        let (games, expected) = (games(&golden, "rows"), &golden["expected"]);
        let start = at(&golden, "start", Link::Half);
        let maps = Shape::Rank(golden["options"]["rank"].as_u64().unwrap() as usize).tangent(&start.theta).unwrap();
        let moments = Moments::at(&games, &start.theta, start.link, Scale::Score);
        let influence = Influence::shared(&maps, &moments, 0.0).unwrap();
        let (t, m) = games.shape();
        for category in 0..t {
            let covariance = influence.covariance(&share(t, category), Spread::Games(&moments));
            if category == 0 {
                let gaps = bands::Gaps::of(&covariance, |_, _| true, Noise::new(1, 2)).unwrap();
                let draws = gaps.largest(4 * bands::DRAWS);
                let tolerance = number(&golden["tolerance"]["critical_value"]);
                close(name, bands::quantile(draws, 0.95), number(&expected["critical_value"]), tolerance);
            }
            let beats = |a: usize, b: usize| {
                let gap = start.theta[(category, a)] - start.theta[(category, b)];
                gap > 2.8 * bands::gap_variance(&covariance, a, b).sqrt()
            };
            let want = &expected["rank_bands_with_critical_value_2_8"];
            for (model, (low, high)) in bands::ranks(m, beats).into_iter().enumerate() {
                let at = |end: &str| want[end][category][model].as_u64().unwrap() as usize;
                assert_eq!((low, high), (at("lo"), at("hi")), "{name}: {category}, {model}");
            }
        }
    }
}

#[test]
fn gaps_that_the_information_leaves_open_are_those_of_the_golden() {
    let Some(golden) = golden("graph_unlinked") else { return };
    let games = games(&golden, "rows");
    let options = Options { method: Method::LowRank, rank: Some(1), ridge: Some(0.5), ..Options::default() };
    let made = board(games, &options).unwrap();
    let mut open: Vec<[usize; 3]> = Vec::new();
    for (category, standing) in made.categories.iter().enumerate() {
        open.extend(standing.gaps.iter().filter(|gap| gap.known.is_none()).map(|gap| [category, gap.a, gap.b]));
    }
    assert_eq!(serde_json::to_value(open).unwrap(), golden["expected"]["not_estimable"]);
}

#[test]
fn chances_against_the_pool_equal_a_second_implementation() {
    for name in ["lowrank_mle_r1", "lowrank_mle_r2"] {
        let Some(golden) = golden(name) else { return };
        let rank = golden["options"]["rank"].as_u64().map(|rank| rank as usize);
        let options = Options { method: Method::LowRank, rank, ..Options::default() };
        let made = board(games(&golden, "rows"), &options).unwrap();
        let expected = &golden["expected"];
        for (category, standing) in made.categories.iter().enumerate() {
            for place in &standing.places {
                let [chance, low, high] = place.win.unwrap();
                close(name, chance, number(&expected["win_probability"][category][place.model]), 1e-6);
                let logit = |p: f64| (p / (1.0 - p)).ln();
                let se = chance * (1.0 - chance) * (logit(high) - logit(low)) / (2.0 * 1.959963984540054);
                close(name, se, number(&expected["win_probability_se_sandwich"][category][place.model]), 1e-6);
            }
        }
    }
}

#[test]
fn style_covariates_equal_arena_rank() {
    let Some(golden) = golden("btl_style") else { return };
    let name = |at: &Value| golden["models"][at.as_u64().unwrap() as usize].as_str().unwrap();
    let mut counter = Counter::default();
    let rows = golden["rows"].as_array().unwrap();
    // They take off the mean over rows as they stand, and divide by what is left.
    let n = rows.len() as f64;
    let mean: Vec<f64> = (3..6).map(|j| rows.iter().map(|row| number(&row[j])).sum::<f64>() / n).collect();
    let square = |j: usize| rows.iter().map(|row| (number(&row[j]) - mean[j - 3]).powi(2)).sum::<f64>();
    let deviation: Vec<f64> = (3..6).map(|j| (square(j) / n).sqrt()).collect();
    for row in rows {
        let y = number(&row[2]);
        let features: Vec<f64> = (0..3).map(|j| (number(&row[j + 3]) - mean[j]) / deviation[j]).collect();
        let won = Tally {
            a: f64::from(u8::from(y == 1.0)),
            b: f64::from(u8::from(y == 0.0)),
            tie: f64::from(u8::from(y == 0.5)),
        };
        let (a, b) = (name(&row[0]), name(&row[1]));
        counter.add(Row { a, b, won, category: "all", persona: "", cluster: None, weight: 1.0, features: &features });
    }
    let games = counter.finish();
    let mut votes = games.votes.clone().unwrap();
    votes.names = ["f0", "f1", "f2"].map(String::from).to_vec();
    let groups = [Groups::of(games.models.len(), games.of(0))];
    // Their ridge is on the mean loss, ours on the sum.
    let ridge = number(&golden["options"]["style_ridge_on_mean_loss"]) * games.games();
    let made = covariates::fit(&games, &votes, &groups, ridge).unwrap();
    let (expected, tolerance) = (&golden["expected"], number(&golden["tolerance"]["coef"]));
    for (model, want) in numbers(&expected["theta"]).iter().enumerate() {
        close("theta", made.theta[(0, model)], *want, tolerance);
    }
    for (got, want) in made.coefficients.iter().zip(numbers(&expected["coef"])) {
        close("coefficient", *got, want, tolerance);
    }
}
