//! A board as JSON: what cannot be known is null.

use super::super::Method;
use super::super::graph::Unknown;
use super::super::rewards::RewardGap;
use super::super::shape::Shape;
use super::standing::{Gap, MIDDLE, POINTS, Place, Standing};
use super::{Board, Disagreement};
use serde_json::{Value, json};

/// Names of methods, as they are asked for.
pub const METHODS: [(&str, Method); 6] = [
    ("adaptive", Method::Adaptive),
    ("lowrank", Method::LowRank),
    ("onestep", Method::OneStep),
    ("whitened", Method::Whitened),
    ("btl", Method::Btl),
    ("pooled", Method::Pooled),
];

/// A rating in points.
pub fn rating(theta: f64) -> f64 {
    MIDDLE + POINTS * theta
}

/// A shape in a word.
pub fn shape_name(shape: Shape) -> String {
    match shape {
        Shape::Pooled => "0".into(),
        Shape::Rank(rank) => rank.to_string(),
        Shape::Tucker { ranks: [a, b, c], .. } => format!("{a}x{b}x{c}"),
    }
}

/// A method's name.
pub fn method_name(method: Method) -> &'static str {
    METHODS.iter().find(|(_, known)| *known == method).map_or("", |(name, _)| name)
}

impl Board {
    /// The whole board.
    pub fn json(&self) -> Value {
        let tried: Vec<Value> = self
            .tried
            .iter()
            .map(|(shape, loss)| json!({ "rank": shape_name(*shape), "loss": number(*loss) }))
            .collect();
        json!({
            "categories": self.categories.iter().map(|standing| self.standing(standing)).collect::<Vec<_>>(),
            "overall": self.standing(&self.overall),
            "method": method_name(self.method),
            "rank": self.shape.map(shape_name),
            "ranks_tried": tried,
            "dimension": self.dim,
            "tau": self.tau,
            "lack_of_fit_z": self.lack_of_fit,
            "nu": self.log_nu.map(f64::exp),
            "outliers": self.outliers.iter().map(|o| json!({
                "model": self.models[o.model], "category": self.categories[o.category].name, "z": o.z,
            })).collect::<Vec<_>>(),
            "disagreements": self.disagreements.iter().map(|d| self.disagreement(d)).collect::<Vec<_>>(),
            "covariates": self.covariates.iter().map(|(name, x, se)| json!({ "name": name, "coefficient": x, "se": se })).collect::<Vec<_>>(),
            "games": self.games,
            "clusters": self.clusters,
            "notes": self.notes,
            "warnings": self.warnings,
            "sentence": self.sentence,
            "rewards": self.rewards.iter().map(reward).collect::<Vec<_>>(),
        })
    }

    fn standing(&self, standing: &Standing) -> Value {
        let needed: Vec<Value> = standing
            .needed
            .iter()
            .map(|(a, b, games)| json!({ "a": self.models[*a], "b": self.models[*b], "games": games.ceil() }))
            .collect();
        json!({
            "name": standing.name,
            "games": standing.games,
            "critical": number(standing.critical),
            "models": standing.places.iter().map(|place| self.place(place)).collect::<Vec<_>>(),
            "gaps": standing.gaps.iter().map(|gap| self.gap(gap)).collect::<Vec<_>>(),
            "games_needed": needed,
        })
    }

    /// Ratings of other groups than the largest are null: they say nothing of those in it.
    fn place(&self, place: &Place) -> Value {
        let theta = place.theta.filter(|_| place.group == 0);
        let mut row = json!({
            "model": self.models[place.model],
            "theta": theta,
            "rating": theta.map(rating),
            "se": theta.and(place.se),
            "rank_low": place.rank_low,
            "rank_high": place.rank_high,
            "games": place.games,
            "group": place.group + 1,
            "tier": place.tier,
            "win_probability": place.win.map(|win| win[0]),
            "win_low": place.win.map(|win| win[1]),
            "win_high": place.win.map(|win| win[2]),
            "wins": place.won.a,
            "losses": place.won.b,
            "ties": place.won.tie,
        });
        if let Some([theta, se]) = place.alone {
            row["alone"] = json!({ "theta": theta, "se": se });
        }
        row
    }

    fn gap(&self, gap: &Gap) -> Value {
        let mut row = json!({
            "a": self.models[gap.a],
            "b": self.models[gap.b],
            "gap": gap.known.map(|known| known[0]),
            "se": gap.known.map(|known| known[1]),
            "low": gap.interval.map(|interval| interval[0]),
            "high": gap.interval.map(|interval| interval[1]),
            "separated": gap.separated,
        });
        if let Some(why) = gap.unknown {
            row["unknown"] = match why {
                Unknown::Apart => "never met, nor over others",
                Unknown::Infinite => "infinite: all points went one way",
            }
            .into();
        }
        row
    }

    fn disagreement(&self, one: &Disagreement) -> Value {
        let interval = |[gap, low, high]: [f64; 3]| json!({ "gap": gap, "low": low, "high": high });
        json!({
            "category": self.categories[one.category].name,
            "a": self.models[one.a],
            "b": self.models[one.b],
            "shared": interval(one.shared),
            "alone": interval(one.alone),
        })
    }
}

fn reward(one: &RewardGap) -> Value {
    json!({
        "category": one.category, "a": one.a, "b": one.b, "mean": one.mean, "se": one.se,
        "low": one.interval.map(|ends| ends[0]), "high": one.interval.map(|ends| ends[1]),
        "episodes": one.episodes, "products": one.products,
    })
}

/// A number, null where it is not finite.
fn number(x: f64) -> Value {
    serde_json::Number::from_f64(x).map_or(Value::Null, Value::Number)
}
