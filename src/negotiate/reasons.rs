//! Reasons a buyer can give for a lower price, and how a listener recognises them.
//!
//! The one idea: a reason is recognised by its key words, not by exact sentences, so a model's own wording counts too.

use serde::{Deserialize, Serialize};

/// A kind of reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Another shop sells it for less.
    Cheaper,
    /// The buyer pays at once.
    PayNow,
    /// The item has a small defect.
    Defect,
    /// The buyer has bought here before.
    Loyal,
}

/// All kinds.
pub const REASONS: [Reason; 4] = [Reason::Cheaper, Reason::PayNow, Reason::Defect, Reason::Loyal];

impl Reason {
    /// Sentences that give this reason.
    pub fn sentences(self) -> [&'static str; 3] {
        match self {
            Reason::Cheaper => {
                ["I saw it cheaper elsewhere.", "Another shop sells it cheaper.", "It is cheaper elsewhere."]
            }
            Reason::PayNow => ["I can pay today.", "I pay cash today.", "I can pay cash now."],
            Reason::Defect => ["The box has a scratch.", "It has a small defect.", "There is a small scratch."],
            Reason::Loyal => ["I am a loyal customer.", "I buy from you often.", "I always buy here."],
        }
    }

    /// One word for the kind, as it stands in a seller's thought.
    pub fn word(self) -> &'static str {
        match self {
            Reason::Cheaper => "cheaper",
            Reason::PayNow => "cash",
            Reason::Defect => "defect",
            Reason::Loyal => "loyal",
        }
    }

    fn keys(self) -> &'static [&'static str] {
        match self {
            Reason::Cheaper => &["cheaper", "elsewhere", "another shop", "lower price at"],
            Reason::PayNow => &["pay today", "cash", "pay now", "right away"],
            Reason::Defect => &["scratch", "defect", "damage", "dent"],
            Reason::Loyal => &["loyal", "often", "always buy", "bought from you"],
        }
    }
}

/// The reason given in a buyer's talk, the first kind that matches.
pub fn reason_in(talk: &str) -> Option<Reason> {
    let talk = talk.to_ascii_lowercase();
    REASONS.into_iter().find(|r| r.keys().iter().any(|key| talk.contains(key)))
}
