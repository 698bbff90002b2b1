//! Each category rated on its own.

use super::super::btl::{self, Fit};
use super::super::covariates;
use super::super::games::{Games, Votes};
use super::super::influence::Influence;
use super::super::linalg::Matrix;
use super::super::link::Link;
use super::super::moments::{Moments, Scale};
use super::super::outliers::{self, By};
use super::super::{Method, Options, Ties};
use super::{Estimate, Piece, groups};

/// Bradley-Terry in each category, with the sandwich or cluster errors.
pub(super) fn each_alone(games: &Games, options: &Options) -> Option<Estimate> {
    let groups = groups(games);
    let inside = btl::within(games, &groups);
    let fit = btl::fit(&inside, &groups, options.ties, 0.0, usize::MAX)?;
    let by = if games.parts.is_some() { By::Clusters } else { By::Games };
    let (moments, meat) = outliers::seen(&inside, &fit, by);
    let local: Option<Vec<Matrix>> =
        moments.info.iter().zip(&groups).map(|(info, groups)| btl::inverse(info, groups)).collect();
    let influence = Influence::local(local?, &moments)?;
    let ranks = groups.iter().map(|g| g.finite.len() - g.by_size().len()).sum();
    let piece = Piece { share: 1.0, influence, moments, meat, by, centre: None };
    Some(Estimate { groups, dim: ranks, ..Estimate::bare(fit, Method::Btl, vec![piece]) })
}

/// Each category on its own, beside what else moves a vote.
pub(super) fn with_covariates(
    games: &Games,
    votes: &Votes,
    method: Method,
    options: &Options,
) -> Result<Estimate, String> {
    if method != Method::Btl || options.ties == Ties::Davidson {
        return Err("--covariates goes with --method btl and --ties half or drop".into());
    }
    let groups = groups(games);
    let same = "the covariates cannot be told from the models; leave out those that follow from who plays";
    let made = covariates::fit(games, votes, &groups, options.ridge.unwrap_or(0.0)).ok_or(same)?;
    let core = made.influence.core();
    let named = votes.names.iter().zip(&made.coefficients).enumerate();
    let covariates = named.map(|(i, (name, x))| (name.clone(), *x, core[(i, i)].max(0.0).sqrt())).collect();
    let dim = groups.iter().map(|g| g.finite.len() - g.by_size().len()).sum::<usize>() + votes.names.len();
    let fit = Fit { theta: made.theta, link: Link::Half, steps: 0, change: 0.0 };
    let moments = Moments::at(games, &fit.theta, fit.link, Scale::Score);
    let piece =
        Piece { share: 1.0, influence: made.influence, moments, meat: Some(made.meat), by: By::Clusters, centre: None };
    Ok(Estimate { groups, dim, covariates, ..Estimate::bare(fit, Method::Btl, vec![piece]) })
}
