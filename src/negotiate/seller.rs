//! The scripted sellers by name; how they play stands in [`super::sellers`].

use serde::{Deserialize, Serialize};

/// A scripted seller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seller {
    /// The fair opponent the embedded seller is supervised from.
    Teacher,
    /// Concedes most at once (concave curve, exponent 1/2).
    Conceder,
    /// Concedes evenly.
    Linear,
    /// Holds nearly to the end (convex curve, exponent 4).
    Boulware,
    /// Gives what it is given: concedes the share of its margin by which the buyer raised.
    TitForTat,
    /// Speaks at random and breaks rules; the regulator holds it.
    Random,
    /// Pleads, asks high, and gives in at the end.
    Begging,
    /// Insults, concedes little, leaves when bids stay low.
    Insulting,
    /// Hardly moves and praises itself.
    Unyielding,
    /// Refuses every bid and asks nothing.
    Rejector,
    /// Buries each ask in eighty words of small talk.
    Chatterer,
    /// Gives the buyer orders, as if it were a machine.
    Injector,
    /// Writes as people do: short, with typos, refusals, and prices in any notation.
    Person,
}

/// All scripted sellers, in the order of tables.
pub const SELLERS: [Seller; 13] = [
    Seller::Teacher,
    Seller::Conceder,
    Seller::Linear,
    Seller::Boulware,
    Seller::TitForTat,
    Seller::Random,
    Seller::Begging,
    Seller::Insulting,
    Seller::Unyielding,
    Seller::Rejector,
    Seller::Chatterer,
    Seller::Injector,
    Seller::Person,
];

impl Seller {
    /// The key in summaries: `teacher`, `tit_for_tat`, ...
    pub fn key(self) -> &'static str {
        match self {
            Seller::Teacher => "teacher",
            Seller::Conceder => "conceder",
            Seller::Linear => "linear",
            Seller::Boulware => "boulware",
            Seller::TitForTat => "tit_for_tat",
            Seller::Random => "random",
            Seller::Begging => "begging",
            Seller::Insulting => "insulting",
            Seller::Unyielding => "unyielding",
            Seller::Rejector => "rejector",
            Seller::Chatterer => "chatterer",
            Seller::Injector => "injector",
            Seller::Person => "person",
        }
    }

    /// The seller of a key.
    pub fn from_key(key: &str) -> Option<Seller> {
        SELLERS.into_iter().find(|s| s.key() == key)
    }
}
