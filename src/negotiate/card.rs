//! The price card: a side's own money grid, and the note on an incoming offer in that grid.
//!
//! The one idea: arithmetic is done by the environment, in the view of the side that already holds every number used.
//! The buyer's grid is percent of its budget; the seller's is percent of its margin, from cost (0 %) to list price (100 %).
//! A card adds no information: whoever holds the prompt could compute it.

use super::money::Cents;
use super::product::Product;
use super::protocol::Side;

/// The percentages on a buyer's card.
pub const BUYER_GRID: [u32; 15] = [20, 30, 40, 45, 50, 55, 60, 65, 70, 75, 80, 85, 90, 95, 100];
/// The percentages on a seller's card.
pub const SELLER_GRID: [u32; 11] = [0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100];
/// List price from which card prices are whole dollars.
pub const WHOLE_DOLLARS_FROM: Cents = Cents(2_500);

/// One side's grid of prices, ascending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    /// Whose card it is.
    pub side: Side,
    /// `(percent, price)` rows, both ascending; two rows may share a price on very cheap products.
    pub rows: Vec<(u32, Cents)>,
}

impl Card {
    /// The card of `side` for a product. End points are exact; between them the buyer's prices are rounded down and
    /// the seller's up, to whole dollars when the list price is at least $25, else to cents.
    pub fn new(product: &Product, side: Side) -> Card {
        let unit = if product.list >= WHOLE_DOLLARS_FROM { 100 } else { 1 };
        let rows = match side {
            Side::Buyer => BUYER_GRID.iter().map(|&p| (p, buyer_price(product, p, unit))).collect(),
            Side::Seller => SELLER_GRID.iter().map(|&p| (p, seller_price(product, p, unit))).collect(),
        };
        Card { side, rows }
    }

    /// The price of a percentage on the card, `None` when it is not on the card.
    pub fn price(&self, percent: u32) -> Option<Cents> {
        self.rows.iter().find(|row| row.0 == percent).map(|row| row.1)
    }

    /// The price of the largest percentage on the card not above `percent` (the first row when there is none).
    pub fn price_at_most(&self, percent: u32) -> Cents {
        self.rows.iter().rev().find(|row| row.0 <= percent).unwrap_or(&self.rows[0]).1
    }

    /// The percentage of the largest card price not above `price`; `None` below the card.
    pub fn percent(&self, price: Cents) -> Option<u32> {
        self.rows.iter().rev().find(|row| row.1 <= price).map(|row| row.0)
    }
}

fn buyer_price(product: &Product, percent: u32, unit: i64) -> Cents {
    let budget = product.budget.0;
    if percent == 100 {
        return product.budget;
    }
    let exact = budget * i64::from(percent) / 100;
    let rounded = exact / unit * unit;
    Cents(if rounded > 0 { rounded } else { exact.max(1) })
}

fn seller_price(product: &Product, percent: u32, unit: i64) -> Cents {
    let (cost, list) = (product.cost.0, product.list.0);
    match percent {
        0 => product.cost,
        100 => product.list,
        _ => {
            let exact = cost + ((list - cost) * i64::from(percent) + 99) / 100;
            Cents(((exact + unit - 1) / unit * unit).min(list))
        }
    }
}

/// How an incoming offer stands in the receiver's own grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// A seller's view of a bid under three quarters of its cost.
    FarBelow,
    /// A seller's view of a bid under its cost.
    Below,
    /// Percent on the receiver's grid: of budget, rounded up to 5 (buyer); of margin, rounded down to 10 (seller).
    Percent(u32),
    /// A buyer's view of an ask above its budget.
    Over,
}

impl Level {
    /// The level of an incoming `offer` as its receiver `side` sees it.
    pub fn of(product: &Product, side: Side, offer: Cents) -> Level {
        match side {
            Side::Buyer if offer > product.budget => Level::Over,
            Side::Buyer => {
                let steps = (offer.0 * 20 + product.budget.0 - 1) / product.budget.0.max(1);
                Level::Percent(steps.max(1) as u32 * 5)
            }
            Side::Seller if offer.0 * 4 < product.cost.0 * 3 => Level::FarBelow,
            Side::Seller if offer < product.cost => Level::Below,
            Side::Seller => {
                let margin = (product.list.0 - product.cost.0).max(1);
                Level::Percent((((offer.0 - product.cost.0) * 10 / margin).clamp(0, 10) * 10) as u32)
            }
        }
    }

    /// The words of the note: `far below`, `below`, `40%`, `over`.
    pub fn words(self) -> String {
        match self {
            Level::FarBelow => "far below".into(),
            Level::Below => "below".into(),
            Level::Percent(p) => format!("{p}%"),
            Level::Over => "over".into(),
        }
    }
}

/// How an incoming offer moved against the same side's offer before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    /// There was no earlier offer.
    First,
    /// The price went up.
    Up,
    /// The price stayed.
    Same,
    /// The price went down.
    Down,
}

impl Move {
    /// Compares an offer with the one before it.
    pub fn of(before: Option<Cents>, now: Cents) -> Move {
        match before {
            None => Move::First,
            Some(b) if now > b => Move::Up,
            Some(b) if now < b => Move::Down,
            Some(_) => Move::Same,
        }
    }

    /// The word of the note; empty for a first offer.
    pub fn word(self) -> &'static str {
        match self {
            Move::First => "",
            Move::Up => "up",
            Move::Same => "same",
            Move::Down => "down",
        }
    }
}
