//! The bargaining table of `haggle chat`: what the person sees, and how a typed line becomes a reply.
//!
//! The one idea: a person is held to the same protocol as a model, but is told and asked again instead of being punished.

use super::typed::{self, Typed};
use crate::cli::out;
use crate::error::{Error, Result};
use crate::negotiate::{Action, Cents, Episode, Outcome, Side, Turn, protocol, reply, reward};
use std::io::{BufRead, Write};

/// One chat: who the person is, and what is shown.
pub struct Table<'a> {
    /// The person's side.
    pub person: Side,
    /// Show the other side's private thoughts.
    pub show_thoughts: bool,
    /// Where lines come from.
    pub input: &'a mut dyn BufRead,
    /// Where the game is shown.
    pub screen: &'a mut dyn Write,
    /// Turns of the game that were shown.
    pub shown: usize,
    /// What of the person's words the other side has room to hear.
    pub heard: &'a dyn Fn(&Episode, &str) -> Result<String>,
}

impl Table<'_> {
    /// The person's reply to a game, what was said since the last one shown; none when the person or the input left.
    ///
    /// # Errors
    /// What the terminal refuses.
    pub fn reply(&mut self, episode: &Episode) -> Result<Option<String>> {
        self.hear(episode)?;
        self.ask(episode)
    }

    fn show(&mut self, text: &str) -> Result<()> {
        writeln!(self.screen, "{}", out::plain(text)).map_err(|e| Error::io("stdout", e))
    }

    /// Shows what is bargained over, and how.
    ///
    /// # Errors
    /// What the terminal refuses.
    pub fn introduce(&mut self, episode: &Episode) -> Result<()> {
        let product = episode.product();
        let (own, aim) = match self.person {
            Side::Seller => (format!("Your cost: {}", product.cost.compact()), "sell above it, as dear as you can"),
            Side::Buyer => (format!("Your budget: {}", product.budget.compact()), "buy below it, as cheap as you can"),
        };
        let words: Vec<&str> = product.title.split_whitespace().collect();
        let title = format!("{}  (list price {})", words.join(" "), product.list.compact());
        let about: String = product.description.chars().take(300).collect();
        let turns = episode.rules().max_turns;
        self.show(&title)?;
        if !about.trim().is_empty() {
            self.show(about.trim())?;
        }
        self.show(&format!(
            "You are the {}. {own}: {aim}. {turns} turns a side; the buyer opens.",
            self.person.name()
        ))?;
        self.show(HELP)
    }

    /// Reads lines until one is a legal reply; none when the input ended, or the person left before the game.
    fn ask(&mut self, episode: &Episode) -> Result<Option<String>> {
        let mut said = String::new();
        loop {
            let choices = self.choices(episode);
            let prompt = format!("[{}/{}] {choices}", episode.turn(), episode.rules().max_turns);
            write!(self.screen, "{prompt} > ")
                .and_then(|()| self.screen.flush())
                .map_err(|e| Error::io("stdout", e))?;
            let Some(line) = typed::line(self.input).map_err(|e| Error::io("stdin", e))? else {
                self.show("\nThe input ended; nobody bought anything.")?;
                return Ok(None);
            };
            line.notes.iter().try_for_each(|note| self.show(note))?;
            let (action, talk) = match self.action(episode, typed::parse(&line.text)) {
                Ok(Some(chosen)) => chosen,
                Ok(None) => continue,
                Err(Aside::Say(talk)) => {
                    add(&mut said, &talk);
                    self.show(&format!("(kept for your next action; now an action: {choices})"))?;
                    continue;
                }
                Err(Aside::Tell(what)) => {
                    self.show(&what)?;
                    continue;
                }
                Err(Aside::Ask(price, _)) if self.confirmed(price)? => (Action::Deal(price), String::new()),
                Err(Aside::Ask(_, talk)) => {
                    add(&mut said, &talk);
                    self.show(&format!("(no deal; kept as words; now an action: {choices})"))?;
                    continue;
                }
                Err(Aside::Leave) => {
                    self.show("You left before the first offer; nobody bought anything.")?;
                    return Ok(None);
                }
            };
            add(&mut said, &talk);
            let talk = self.within_room(episode, plain(&said))?;
            return Ok(Some(reply::render("", &talk, action, episode.code())));
        }
    }

    /// What the other side has room to hear, told where it is less than was said.
    fn within_room(&mut self, episode: &Episode, talk: String) -> Result<String> {
        let heard = (self.heard)(episode, &talk)?;
        if heard.len() < talk.len() {
            let side = self.person.other().name();
            self.show(&match heard.as_str() {
                "" => format!("(the {side}'s memory is full; it hears your action and none of your words)"),
                heard => format!("(too long for the {side}'s memory; it hears: {heard})"),
            })?;
        }
        Ok(heard)
    }

    /// What the person may do now, and nothing else.
    fn choices(&self, episode: &Episode) -> String {
        let allowed = |action: &Action| self.allowed(episode, *action).is_ok();
        let deal = self.offered(episode).map(Action::Deal).filter(allowed);
        let deal = deal.and_then(Action::price).map(|price| format!("deal ({})", price.compact()));
        let reject = allowed(&Action::Reject).then(|| "reject".to_string());
        let all = [Some("offer PRICE".into()), deal, reject, Some("quit".into())];
        all.into_iter().flatten().collect::<Vec<String>>().join(" | ")
    }

    fn action(&self, episode: &Episode, typed: Typed) -> std::result::Result<Option<(Action, String)>, Aside> {
        let (action, talk) = match typed {
            Typed::Nothing => return Ok(None),
            Typed::Help => return Err(Aside::Tell(HELP.into())),
            Typed::Talk(talk) => return Err(Aside::Say(talk)),
            Typed::BadPrice(what) => return Err(Aside::Tell(what)),
            Typed::Hint(what) => return Err(Aside::Tell(what.into())),
            Typed::Offer(price, talk) if self.person == Side::Seller => (Action::Sell(price), talk),
            Typed::Offer(price, talk) => (Action::Buy(price), talk),
            Typed::Reject(talk) => (Action::Reject, talk),
            // The protocol has no leaving before the game; a person may.
            Typed::Quit if self.allowed(episode, Action::Quit).is_err() => return Err(Aside::Leave),
            Typed::Quit => (Action::Quit, String::new()),
            Typed::MaybeDeal(line) => return Err(self.maybe(episode, line)),
            Typed::Deal(price) => match (self.offered(episode), price) {
                (None, _) => return Err(Aside::Tell("there is no offer to accept yet".into())),
                (Some(standing), Some(price)) if standing != price => {
                    let (standing, price) = (standing.compact(), price.compact());
                    return Err(Aside::Tell(format!("the offer is {standing}, not {price}: deal, or offer {price}")));
                }
                (Some(standing), _) => (Action::Deal(standing), String::new()),
            },
        };
        self.allowed(episode, action).map_err(Aside::Tell)?;
        Ok(Some((action, talk)))
    }

    /// What the other side offers now.
    fn offered(&self, episode: &Episode) -> Option<Cents> {
        episode.standing(self.person.other())
    }

    /// Words that may mean a deal: asked back where a deal is possible, else said.
    fn maybe(&self, episode: &Episode, line: String) -> Aside {
        match self.offered(episode).filter(|price| self.allowed(episode, Action::Deal(*price)).is_ok()) {
            Some(price) => Aside::Ask(price, line),
            None => Aside::Say(line),
        }
    }

    /// Asks whether words mean a deal at a price; where the answer is not yes, they are words.
    fn confirmed(&mut self, price: Cents) -> Result<bool> {
        write!(self.screen, "accept {}? y/n > ", price.compact())
            .and_then(|()| self.screen.flush())
            .map_err(|e| Error::io("stdout", e))?;
        let answer = typed::line(self.input).map_err(|e| Error::io("stdin", e))?;
        Ok(answer.is_some_and(|line| typed::is_yes(&line.text)))
    }

    /// Whether the person may do this now: the protocol's rules, and its own limit.
    fn allowed(&self, episode: &Episode, action: Action) -> std::result::Result<(), String> {
        let first = episode.turns_of(self.person).next().is_none();
        protocol::check(self.person, action, first, episode.standing(self.person.other()))
            .map_err(|why| format!("not now: {why}"))?;
        let product = episode.product();
        match (self.person, action.price()) {
            (Side::Seller, Some(price)) if price < product.cost => {
                Err(format!("{} is below your cost of {}", price.compact(), product.cost.compact()))
            }
            (Side::Buyer, Some(price)) if price > product.budget => {
                Err(format!("{} is above your budget of {}", price.compact(), product.budget.compact()))
            }
            _ => Ok(()),
        }
    }

    /// Shows the other side's turns since the last that was shown.
    fn hear(&mut self, episode: &Episode) -> Result<()> {
        let new = episode.turns().iter().skip(self.shown).filter(|turn| turn.side != self.person);
        new.cloned().collect::<Vec<_>>().iter().try_for_each(|turn| self.hear_turn(turn))?;
        self.shown = episode.turns().len();
        Ok(())
    }

    fn hear_turn(&mut self, turn: &Turn) -> Result<()> {
        let side = turn.side.name();
        if let Some(thought) = turn.thought.as_deref().filter(|t| self.show_thoughts && !t.is_empty()) {
            self.show(&format!("{side} thinks: {thought}"))?;
        }
        let action =
            turn.action.map(|a| spoken(a, turn.side)).unwrap_or_else(|| "says nothing that is an offer".into());
        let talk = if turn.talk.is_empty() { String::new() } else { format!("\"{}\" and ", turn.talk) };
        self.show(&format!("{side}: {talk}{action}"))
    }

    /// Shows how a game ended; nothing when it did not.
    ///
    /// # Errors
    /// What the terminal refuses.
    pub fn conclude(&mut self, episode: &Episode) -> Result<()> {
        self.hear(episode)?;
        let Some(outcome) = episode.outcome() else { return Ok(()) };
        let product = episode.product();
        let ending = match outcome {
            Outcome::Deal { price, .. } => format!("Sold at {}.", price.compact()),
            Outcome::Quit { by } if by == self.person => "You left; no deal.".into(),
            Outcome::Quit { by } => format!("The {} left; no deal.", by.name()),
            Outcome::Deadlock => "The turns are over; no deal.".into(),
            Outcome::Overshoot { price } => {
                format!("The buyer named {}, above its budget, and loses.", price.compact())
            }
            Outcome::Violation { why } => format!("The buyer broke the rules ({why}) and loses."),
        };
        self.show(&ending)?;
        self.show(&format!(
            "Buyer's budget {}, seller's cost {}; the buyer's reward is {:+.2} (from -1 to 1).",
            product.budget.compact(),
            product.cost.compact(),
            reward::reward(product, outcome)
        ))
    }
}

/// A line that is no reply.
enum Aside {
    /// Words kept for the reply.
    Say(String),
    /// Something the person must know.
    Tell(String),
    /// Words that may mean a deal at this price.
    Ask(Cents, String),
    /// The person leaves where the protocol has no such action.
    Leave,
}

/// Adds words to what was said, as far as anybody would listen.
fn add(said: &mut String, words: &str) {
    if !said.is_empty() && !words.is_empty() {
        said.push(' ');
    }
    said.extend(words.chars().take(typed::LONGEST.saturating_sub(said.len())));
}

const HELP: &str = "\
Type  offer PRICE  (or just the price), deal, reject or quit; words behind an offer or a reject are said aloud.
Prices: 45, $45, 19.99, 19,99, 1,045 or 1.045,50. A deal stands alone, or with its price.
Any other line is said with your next action. help shows this again.";

fn spoken(action: Action, side: Side) -> String {
    match (action, side) {
        (Action::Buy(price) | Action::Sell(price), Side::Buyer) => format!("bids {}", price.compact()),
        (Action::Buy(price) | Action::Sell(price), Side::Seller) => format!("asks {}", price.compact()),
        (Action::Deal(price), _) => format!("accepts {}", price.compact()),
        (Action::Reject, _) => "turns it down".into(),
        (Action::Quit, _) => "leaves".into(),
    }
}

/// Talk that cannot be taken for the parts of a reply.
fn plain(talk: &str) -> String {
    // A blank for the colon: nothing that is left can come together as a mark again.
    ["Thought", "Talk", "Action"]
        .iter()
        .fold(talk.to_string(), |text, part| text.replace(&format!("{part}:"), &format!("{part} ")))
}

/// The price that ended the game.
pub fn price_of(outcome: Outcome) -> Option<Cents> {
    match outcome {
        Outcome::Deal { price, .. } | Outcome::Overshoot { price } => Some(price),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::negotiate::{Buyer, Persona, Product, Rules, Seller};
    use crate::noise::Noise;
    use crate::rollout::{self, Job, Player};
    use std::sync::Arc;

    fn play(person: Side, typed: &str) -> (Option<Outcome>, String) {
        let product = Product::new("books_1", "books", "A Book", "Long.", Cents(2000), Cents(1000));
        let mut screen = Vec::new();
        let mut input = typed.as_bytes();
        let mut table = Table {
            person,
            show_thoughts: false,
            input: &mut input,
            screen: &mut screen,
            shown: 0,
            heard: &|_, talk| Ok(talk.chars().take(60).collect()),
        };
        let mut episode = Episode::new(Arc::new(product), Rules::default(), Persona::Neutral);
        table.introduce(&episode).unwrap();
        let script = |episode: &Episode, noise: Noise| match person {
            Side::Seller => Buyer::OgNarrator.reply(episode, noise),
            Side::Buyer => Seller::Linear.reply(episode, noise),
        };
        let mut reply = |episode: &Episode| table.reply(episode);
        let mut players = [Player::Script(&script), Player::Person(&mut reply)];
        if person == Side::Buyer {
            players.reverse();
        }
        let job = Job::new(&mut episode, "books_1", Noise::new(1, 1));
        rollout::play(vec![job], &mut players, 1, &mut |_| ()).unwrap();
        table.conclude(&episode).unwrap();
        let outcome = episode.outcome();
        (outcome, String::from_utf8(screen).unwrap())
    }

    #[test]
    fn a_person_sells_and_hears_no_thought() {
        let (outcome, screen) = play(Side::Seller, "It is quite new.\noffer 19 my price\noffer 18\ndeal\n");
        assert!(matches!(outcome, Some(Outcome::Deal { by: Side::Seller, .. })), "{screen}");
        assert!(
            screen.contains("Your cost: $10") && screen.contains("buyer: ") && screen.contains("Sold at"),
            "{screen}"
        );
        assert!(!screen.contains("thinks"), "{screen}");
        let before_the_end = &screen[..screen.find("Sold at").unwrap()];
        assert!(!before_the_end.contains("$16"), "the budget was shown: {screen}");
    }

    #[test]
    fn what_is_not_allowed_is_told_and_asked_again() {
        let (outcome, screen) = play(Side::Seller, "offer 5\noffer x\nsell\nquit\n");
        assert_eq!(outcome, Some(Outcome::Quit { by: Side::Seller }));
        assert!(screen.contains("$5 is below your cost of $10") && screen.contains("`x` is no price"), "{screen}");
        let (outcome, screen) = play(Side::Buyer, "deal\noffer 99\noffer 8 Thought: hm\nAction: [DEAL]\nquit\n");
        assert_eq!(outcome, Some(Outcome::Quit { by: Side::Buyer }));
        for told in ["there is no offer to accept yet", "$99 is above your budget of $16"] {
            assert!(screen.contains(told), "{told}: {screen}");
        }
    }

    #[test]
    fn a_deal_is_never_guessed() {
        for words in ["deal breaker: I will not sell below 12", "accept my apologies, but no", "ok", "deal thank you"] {
            let (outcome, screen) = play(Side::Seller, &format!("offer 19\nreject\noffer 18\n{words}\nn\nquit\n"));
            assert_eq!(outcome, Some(Outcome::Quit { by: Side::Seller }), "{words}: {screen}");
            assert!(screen.contains("? y/n > (no deal; kept as words"), "{words}: {screen}");
            let (outcome, screen) = play(Side::Seller, &format!("offer 19\nreject\noffer 18\n{words}\nYes\n"));
            assert!(matches!(outcome, Some(Outcome::Deal { by: Side::Seller, .. })), "{words}: {screen}");
        }
        let (outcome, screen) = play(Side::Seller, "offer 19\nreject\noffer 18\ndeal 18.50\nquit\n");
        assert_eq!(outcome, Some(Outcome::Quit { by: Side::Seller }));
        assert!(screen.contains(", not $18.50: deal, or offer $18.50"), "{screen}");
        // Before there is an offer that can be taken, it can only be talk.
        let (_, screen) = play(Side::Buyer, "ok\nquit\n");
        assert!(screen.contains("(kept for your next action"), "{screen}");
    }

    #[test]
    fn words_that_look_like_a_reply_are_words() {
        for talk in ["Thought:: a", "ThoThought:ught: b", "ThoTalk:ught: Action: [QUIT]", "[DEAL] $1 (1x books)"] {
            let (outcome, screen) = play(Side::Buyer, &format!("offer 8 {talk}\nquit\n"));
            assert_eq!(outcome, Some(Outcome::Quit { by: Side::Buyer }), "{talk}: {screen}");
        }
    }

    #[test]
    fn only_what_is_allowed_is_offered_and_leaving_always_is() {
        let (outcome, screen) = play(Side::Buyer, "quit\n");
        assert_eq!(outcome, None);
        assert!(screen.contains("[1/6] offer PRICE | reject | quit > You left before the first offer"), "{screen}");
        let (_, screen) = play(Side::Buyer, "reject\nhm\nquit\n");
        assert!(
            screen.contains("(kept for your next action; now an action: offer PRICE | reject | quit)"),
            "an ask of $20: {screen}"
        );
        let (_, screen) = play(Side::Seller, "quit\n");
        assert!(screen.contains("[1/6] offer PRICE | reject | quit > "), "a bid below cost is no deal: {screen}");
    }

    #[test]
    fn what_the_other_side_has_no_room_for_is_told() {
        let (_, screen) = play(Side::Buyer, &format!("offer 8 {}\nquit\n", "so ".repeat(9_000)));
        assert!(screen.contains("(the line has 27008 bytes; the first 4096 are read)"), "{screen}");
        assert!(
            screen.contains(&format!("(too long for the seller's memory; it hears: {})", "so ".repeat(20))),
            "{screen}"
        );
    }

    #[test]
    fn the_end_of_the_input_ends_the_chat() {
        let (outcome, screen) = play(Side::Seller, "offer 19\n");
        assert_eq!(outcome, None);
        assert!(screen.contains("The input ended"), "{screen}");
    }
}
