//! What sellers of a temper say.

/// One that begs.
pub(super) const BEGGING: [&str; 3] =
    ["Please, I need this money.", "My family depends on it, please.", "I beg you, pay a bit more."];
/// One that insults.
pub(super) const INSULTING: [&str; 3] = ["Stop wasting my time.", "Are you too poor for this?", "Pay or get lost."];
/// One that does not give in.
pub(super) const UNYIELDING: [&str; 3] =
    ["My price is right as it is.", "This is the best there is.", "I do not bargain."];
/// Any other.
pub(super) const PLAIN: [&str; 3] = ["This is my price.", "I can come down a little.", "That is a fair price."];
