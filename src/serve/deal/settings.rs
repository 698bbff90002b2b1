//! What a negotiation is made with, read from a body.

use super::super::fields::{Fields, kind};
use super::super::refusal::Refusal;
use super::Negotiator;
use crate::negotiate::legal::Guards;
use crate::negotiate::money::MAX_CENTS;
use crate::negotiate::product::MIN_LIST;
use crate::negotiate::prompts::PERSONAS;
use crate::negotiate::{Cents, Persona, Product, Rules, Side};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::hash::{BuildHasher, RandomState};

/// Longest title and description, in characters.
const LONGEST: [usize; 2] = [300, 4_000];
/// Most rounds.
const MOST_ROUNDS: u64 = 32;
/// Seconds a negotiation lives where nobody says, and at most.
const EXPIRY: [u64; 2] = [86_400, 30 * 86_400];

/// A negotiation's own settings, its private limit among them: as they are stored, never as they are told.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Settings {
    /// The side that the model plays.
    pub role: Side,
    /// What is bargained over. The other side's private number is not known: it is as far off as can be.
    pub product: Product,
    /// A seller's manner.
    pub persona: Persona,
    /// How far it may give in.
    pub guards: Guards,
    /// Turns a side.
    pub max_rounds: u32,
    /// Seeds what it says.
    pub seed: u64,
    /// 0 is greedy.
    pub temperature: f32,
    /// Milliseconds after which it takes no more messages.
    pub expires_in_ms: u64,
}

impl Settings {
    /// Takes a body's fields, all of them.
    ///
    /// # Errors
    /// 400 that names the field at fault.
    pub fn read(body: &[u8], negotiator: &Negotiator) -> Result<Settings, Refusal> {
        let mut fields = Fields::read(body)?;
        let role = match fields.text("role")?.as_deref() {
            Some("buyer") => Side::Buyer,
            Some("seller") => Side::Seller,
            _ => {
                return Err(Refusal::of_field(
                    "role",
                    "want `role`, \"buyer\" or \"seller\": the side the model plays",
                ));
            }
        };
        let product = product(&mut fields, role, negotiator)?;
        let settings = Settings {
            role,
            product,
            persona: persona(&mut fields, role)?,
            guards: guards(&mut fields)?,
            max_rounds: bounded(&mut fields, "max_rounds", 1, MOST_ROUNDS)?
                .map_or(negotiator.rules.max_turns, |n| n as u32),
            seed: fields.seed("seed")?.unwrap_or_else(|| RandomState::new().hash_one(0u64)),
            temperature: fields.float("temperature")?.unwrap_or(negotiator.sampling.temperature),
            expires_in_ms: 1_000 * bounded(&mut fields, "expires_in", 1, EXPIRY[1])?.unwrap_or(EXPIRY[0]),
        };
        fields.end()?;
        match settings.temperature {
            0.0..=100.0 => Ok(settings),
            other => Err(Refusal::of_field("temperature", format!("`temperature` must be 0 to 100, is {other}"))),
        }
    }

    /// The rules it is played by.
    pub fn rules(&self, negotiator: &Negotiator) -> Rules {
        Rules { max_turns: self.max_rounds, ..negotiator.rules }
    }
}

fn bounded(fields: &mut Fields, name: &str, least: u64, most: u64) -> Result<Option<u64>, Refusal> {
    match fields.whole(name)? {
        Some(n) if !(least..=most).contains(&n) => {
            Err(Refusal::of_field(name, format!("`{name}` must be {least} to {most}, is {n}")))
        }
        other => Ok(other),
    }
}

/// Takes a price in cents, above zero.
///
/// # Errors
/// 400 for anything else.
pub fn price(fields: &mut Fields, name: &str) -> Result<Option<Cents>, Refusal> {
    let refused = |got: String| {
        let what = format!("`{name}` must be whole cents, 1 to {MAX_CENTS}, is {got}");
        Err(Refusal::of_field(name, what).with_code("bad_price"))
    };
    match fields.take(name) {
        None => Ok(None),
        Some(value) => match value.as_i64() {
            Some(cents) if (1..=MAX_CENTS).contains(&cents) => Ok(Some(Cents(cents))),
            _ => refused(kind(&value)),
        },
    }
}

fn wanted(fields: &mut Fields, name: &str) -> Result<Cents, Refusal> {
    price(fields, name)?.ok_or_else(|| Refusal::of_field(name, format!("want `{name}`, in cents")))
}

fn product(fields: &mut Fields, role: Side, negotiator: &Negotiator) -> Result<Product, Refusal> {
    let limit = wanted(fields, "limit_cents")?;
    let mut own =
        fields.object("product")?.map(Fields::of).ok_or_else(|| Refusal::of_field("product", "want `product`"))?;
    let title = own.text("title")?.unwrap_or_default();
    let description = own.text("description")?.unwrap_or_default();
    let category = own.text("category")?.unwrap_or_else(|| "other".into());
    let list = wanted(&mut own, "list_cents")?;
    own.end()?;
    for (name, text, most) in
        [("title", &title, LONGEST[0]), ("description", &description, LONGEST[1]), ("category", &category, 60)]
    {
        if text.chars().count() > most {
            return Err(Refusal::of_field(name, format!("`product.{name}` is longer than {most} characters")));
        }
    }
    if title.trim().is_empty() {
        return Err(Refusal::of_field("title", "want `product.title`"));
    }
    if list < MIN_LIST || list > negotiator.dearest {
        let what = format!(
            "`product.list_cents` must be {} to {} for this model, is {}",
            MIN_LIST.0, negotiator.dearest.0, list.0
        );
        return Err(Refusal::of_field("list_cents", what).with_code("bad_price"));
    }
    if role == Side::Seller && limit > list {
        let what = "`limit_cents` of a seller, the least it takes, must be at most `product.list_cents`";
        return Err(Refusal::of_field("limit_cents", what).with_code("bad_price"));
    }
    // The other side's number is one that no text can name.
    let (cost, budget) = match role {
        Side::Buyer => (Cents(-1), limit),
        Side::Seller => (limit, Cents(MAX_CENTS + 1)),
    };
    Ok(Product { budget, ..Product::new("item", &category, &title, &description, list, cost) })
}

fn persona(fields: &mut Fields, role: Side) -> Result<Persona, Refusal> {
    let Some(name) = fields.text("persona")? else { return Ok(Persona::default()) };
    let names = PERSONAS.map(Persona::name);
    match PERSONAS.into_iter().find(|persona| persona.name() == name) {
        Some(persona) if role == Side::Seller || persona == Persona::Neutral => Ok(persona),
        Some(_) => Err(Refusal::of_field("persona", "a buyer has no `persona`")),
        None => Err(Refusal::of_field(
            "persona",
            format!("`persona` must be one of {}, is {}", names.join(", "), Value::from(name)),
        )),
    }
}

fn guards(fields: &mut Fields) -> Result<Guards, Refusal> {
    let Some(own) = fields.object("guards")? else { return Ok(Guards::default()) };
    let mut own = Fields::of(own);
    let guards =
        Guards { max_step: price(&mut own, "max_step_cents")?, max_total: price(&mut own, "max_total_cents")? };
    own.end()?;
    Ok(guards)
}
