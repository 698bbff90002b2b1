//! Games as they are counted: a cell a category and pair of models, whatever the number of rows.
//!
//! The one idea: every sum over games is a sum over cells, so nothing after counting depends on how many games there were.

/// What came of games between two models, each counted with its weight.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Tally {
    /// Wins of the first.
    pub a: f64,
    /// Wins of the second.
    pub b: f64,
    /// Ties.
    pub tie: f64,
}

impl Tally {
    /// Games.
    pub fn total(&self) -> f64 {
        self.a + self.b + self.tie
    }

    /// Points of the first: a win is one, a tie half of one.
    pub fn score(&self) -> f64 {
        self.a + 0.5 * self.tie
    }

    /// The same games seen by the second.
    pub fn swapped(self) -> Tally {
        Tally { a: self.b, b: self.a, tie: self.tie }
    }

    /// Each count times a factor.
    pub fn times(self, factor: f64) -> Tally {
        Tally { a: factor * self.a, b: factor * self.b, tie: factor * self.tie }
    }

    /// The sum of both.
    pub fn plus(self, other: Tally) -> Tally {
        Tally { a: self.a + other.a, b: self.b + other.b, tie: self.tie + other.tie }
    }
}

/// All games of a pair of models in a category.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cell {
    /// The category: an index of [`Games::categories`].
    pub category: usize,
    /// The first model: an index of [`Games::models`], below the second.
    pub a: usize,
    /// The second model.
    pub b: usize,
    /// Sums of weights.
    pub won: Tally,
    /// Sums of squared weights.
    pub squares: Tally,
    /// How many games.
    pub games: f64,
}

/// The part of a cell that belongs to one cluster.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Part {
    /// The cluster, from 0.
    pub cluster: usize,
    /// The cell: an index of [`Games::cells`].
    pub cell: usize,
    /// Sums of weights.
    pub won: Tally,
}

/// Games one by one, with what else is known of each: only where that is asked for.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Votes {
    /// What is known of each, `k` names.
    pub names: Vec<String>,
    /// The games.
    pub all: Vec<Vote>,
    /// What is known, seen from the first model of the cell: `k` numbers a game.
    pub features: Vec<f64>,
}

/// A game, or some of the same features.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Vote {
    /// The cell: an index of [`Games::cells`].
    pub cell: usize,
    /// The cluster, where there are some.
    pub cluster: Option<usize>,
    /// Sums of weights.
    pub won: Tally,
}

/// Everything counted.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Games {
    /// Models by name, sorted.
    pub models: Vec<String>,
    /// Categories by name, sorted; with personas, `category / persona` for each of both.
    pub categories: Vec<String>,
    /// How many personas a category has, 1 without: category `t` is persona `t % personas`.
    pub personas: usize,
    /// Cells by category, first, second.
    pub cells: Vec<Cell>,
    /// Cells by cluster; none where games are independent.
    pub parts: Option<Vec<Part>>,
    /// Clusters; 0 where games are independent.
    pub clusters: usize,
    /// Rows that were counted.
    pub rows: u64,
    /// Games one by one, where covariates are asked for.
    pub votes: Option<Votes>,
}

impl Games {
    /// Games played, each row's count without its weight.
    pub fn games(&self) -> f64 {
        self.cells.iter().map(|cell| cell.games).sum()
    }

    /// Categories and models: `T`, `M`.
    pub fn shape(&self) -> (usize, usize) {
        (self.categories.len(), self.models.len())
    }

    /// The cells of a category.
    pub fn of(&self, category: usize) -> &[Cell] {
        let from = self.cells.partition_point(|cell| cell.category < category);
        let to = self.cells.partition_point(|cell| cell.category <= category);
        &self.cells[from..to]
    }

    /// Ties gone: games that ended in one were not played.
    pub fn without_ties(mut self) -> Games {
        let none = |won: Tally| Tally { tie: 0.0, ..won };
        for cell in &mut self.cells {
            let share = if cell.won.total() > 0.0 { none(cell.won).total() / cell.won.total() } else { 0.0 };
            (cell.won, cell.squares, cell.games) = (none(cell.won), none(cell.squares), cell.games * share);
        }
        self.parts.iter_mut().flatten().for_each(|part| part.won = none(part.won));
        self.votes.iter_mut().flat_map(|votes| &mut votes.all).for_each(|vote| vote.won = none(vote.won));
        self
    }

    /// Each game's weight times one over the games of its pair in its category, at least `least` of them.
    pub fn weighted_by_pairs(mut self, least: f64) -> Games {
        let weights: Vec<f64> = self.cells.iter().map(|cell| 1.0 / cell.games.max(least)).collect();
        for (cell, weight) in self.cells.iter_mut().zip(&weights) {
            (cell.won, cell.squares) = (cell.won.times(*weight), cell.squares.times(weight * weight));
        }
        for part in self.parts.iter_mut().flatten() {
            part.won = part.won.times(weights[part.cell]);
        }
        for vote in self.votes.iter_mut().flat_map(|votes| &mut votes.all) {
            vote.won = vote.won.times(weights[vote.cell]);
        }
        self
    }
}
