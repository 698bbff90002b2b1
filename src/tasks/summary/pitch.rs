//! Summaries of an offer: K one-line pitches, each worth the share of the offer's key facts it states, within a length.
//!
//! The one idea: facts are words of the published record and the price, found again in the pitch by rule.

use crate::negotiate::Product;
use crate::noise::Noise;
use crate::tasks::Prompt;
use crate::tasks::sets::Scored;

/// Most facts of an offer.
pub const FACTS: usize = 6;
/// Most characters of a pitch; a longer one is worth nothing.
pub const LONGEST: usize = 48;
/// Characters of the title that the prompt shows.
const SHOWN: usize = 80;

/// The key facts of an offer as its prompt writes them: its price, its category, up to four words of its title.
pub fn facts(product: &Product) -> Vec<String> {
    let shown: String = product.title.chars().take(SHOWN).collect();
    let words = shown.split(|c: char| !c.is_alphanumeric()).filter(|w| w.chars().count() >= 4);
    let mut facts = vec![product.list.plain(), product.category_word().to_string()];
    for word in words {
        if facts.len() < FACTS && !facts.iter().any(|f| f.to_lowercase() == word.to_lowercase()) {
            facts.push(word.into());
        }
    }
    facts
}

/// What the model is told.
pub fn prompt(product: &Product, k: usize) -> Prompt {
    let title: String = product.title_line().chars().take(SHOWN).collect();
    Prompt {
        system: format!("pitch {k}"),
        incoming: format!("{}: {title}\nlist {}", product.category_word(), product.list.plain()),
    }
}

/// What a pitch is worth. Case does not matter.
pub fn score(product: &Product, text: &str) -> Scored {
    if text.chars().count() > LONGEST {
        return Scored { utility: 0.0, covers: 0 };
    }
    let (text, facts) = (text.to_lowercase(), facts(product));
    let words: Vec<&str> = text.split_whitespace().map(|w| w.trim_matches(['.', ',', '!', ':'])).collect();
    let covers = facts
        .iter()
        .enumerate()
        .fold(0, |bits, (i, f)| bits | u64::from(words.contains(&f.to_lowercase().as_str())) << i);
    Scored { utility: f64::from(covers.count_ones()) / facts.len() as f64, covers }
}

/// The answer that states as many facts, in order, as the length allows.
pub fn reference(product: &Product) -> String {
    let join = |pitch: String, fact: String| if pitch.is_empty() { fact } else { format!("{pitch} {fact}") };
    facts(product).into_iter().fold(String::new(), |pitch, fact| {
        let longer = join(pitch.clone(), fact);
        if longer.chars().count() <= LONGEST { longer } else { pitch }
    })
}

/// A demonstration: K pitches of one to three of the facts, in any order. Longer ones are for training to find.
pub fn demonstration(product: &Product, k: usize, noise: Noise) -> (String, Vec<String>) {
    let facts = facts(product);
    let pitch = |i: u64| {
        let noise = noise.child(i);
        let chosen = noise.shuffled(facts.len()).into_iter().take(1 + noise.below(1 << 32, 3));
        chosen.map(|f| facts[f].clone()).collect::<Vec<_>>().join(" ")
    };
    ("pitches".into(), (0..k as u64).map(pitch).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::negotiate::Cents;

    fn lamp() -> Product {
        let title = "Bright Desk Lamp, bright LED with Dimmer and Clamp";
        Product::new("home_1", "home-kitchen", title, "", Cents(1_999), Cents(900))
    }

    #[test]
    fn facts_are_the_price_the_category_and_four_words_once_each() {
        assert_eq!(facts(&lamp()), ["$19.99", "home", "Bright", "Desk", "Lamp", "with"]);
    }

    #[test]
    fn a_title_is_one_line_of_the_prompt() {
        let odd = Product::new("x", "of my own", "Lamp\nlist $1.00", "", Cents(1_999), Cents(900));
        assert_eq!(prompt(&odd, 2).incoming, "other: Lamp list $1.00\nlist $19.99");
    }

    #[test]
    fn a_pitch_is_worth_the_share_of_facts_it_states_within_its_length() {
        let of = |text: &str| score(&lamp(), text);
        assert_eq!(of("A bright lamp: $19.99!"), Scored { utility: 0.5, covers: 0b010101 });
        assert_eq!(of("lamp lamp Lamp").utility, 1.0 / 6.0, "a fact counts once");
        assert_eq!(of("lamps").utility, 0.0);
        let long = format!("Bright Desk Lamp {}", "x".repeat(LONGEST));
        assert_eq!(of(&long), Scored { utility: 0.0, covers: 0 });
        assert_eq!(of(&reference(&lamp())).utility, 1.0);
    }

    #[test]
    fn demonstrations_state_facts_and_are_within_the_length_of_a_pitch_most_often() {
        let (_, pitches) = demonstration(&lamp(), 200, Noise::new(1, 1));
        let worth: Vec<f64> = pitches.iter().map(|p| score(&lamp(), p).utility * 6.0).collect();
        assert!(worth.iter().all(|w| (0.999..3.001).contains(w)), "one to three facts: {worth:?}");
    }
}
