//! Games as they are counted: a cell a category and pair of models, whatever the number of rows.
//!
//! The one idea: every sum over games is a sum over cells, so nothing after counting depends on how many games there were;
//! names are sorted, so nothing depends on the order of rows.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

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
}

/// One row: games of two models, and where they were played.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    /// The first model.
    pub a: &'a str,
    /// The second model.
    pub b: &'a str,
    /// What came of them.
    pub won: Tally,
    /// The category.
    pub category: &'a str,
    /// The persona, where there are some.
    pub persona: &'a str,
    /// Which games belong together.
    pub cluster: Option<&'a str>,
    /// The weight of each game.
    pub weight: f64,
}

/// Counts rows.
#[derive(Debug, Default)]
pub struct Counter {
    models: Names,
    categories: Names,
    personas: Names,
    clusters: Names,
    at: HashMap<[u32; 4], usize>,
    cells: Vec<([u32; 4], Cell)>,
    parts: Vec<Part>,
    rows: u64,
}

/// Names by the order of their first row.
#[derive(Debug, Default)]
struct Names {
    all: Vec<String>,
    of: HashMap<String, u32>,
}

impl Names {
    fn id(&mut self, name: &str) -> u32 {
        match self.of.get(name) {
            Some(id) => *id,
            None => {
                let id = self.all.len() as u32;
                self.all.push(name.into());
                self.of.insert(name.into(), id);
                id
            }
        }
    }

    /// The names sorted, and each id's place among them.
    fn sorted(self) -> (Vec<String>, Vec<usize>) {
        let mut order: Vec<usize> = (0..self.all.len()).collect();
        order.sort_by(|x, y| self.all[*x].cmp(&self.all[*y]));
        let mut place = vec![0; order.len()];
        order.iter().enumerate().for_each(|(at, id)| place[*id] = at);
        (order.into_iter().map(|id| self.all[id].clone()).collect(), place)
    }
}

impl Counter {
    /// Counts a row.
    pub fn add(&mut self, row: Row) {
        let (a, b) = (self.models.id(row.a), self.models.id(row.b));
        let (category, persona) = (self.categories.id(row.category), self.personas.id(row.persona));
        let (a, b, won) = if a < b { (a, b, row.won) } else { (b, a, row.won.swapped()) };
        let key = [category, persona, a, b];
        let at = match self.at.entry(key) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(new) => {
                let none = Tally::default();
                self.cells.push((key, Cell { category: 0, a: 0, b: 0, won: none, squares: none, games: 0.0 }));
                *new.insert(self.cells.len() - 1)
            }
        };
        let cell = &mut self.cells[at].1;
        cell.won = cell.won.plus(won.times(row.weight));
        cell.squares = cell.squares.plus(won.times(row.weight * row.weight));
        cell.games += won.total();
        if let Some(cluster) = row.cluster {
            let cluster = self.clusters.id(cluster) as usize;
            self.parts.push(Part { cluster, cell: at, won: won.times(row.weight) });
        }
        self.rows += 1;
    }

    /// Different models so far.
    pub fn models(&self) -> usize {
        self.models.all.len()
    }

    /// Everything counted, sorted by name.
    pub fn finish(self) -> Games {
        let (models, model_at) = self.models.sorted();
        let (categories, category_at) = self.categories.sorted();
        let (personas, persona_at) = self.personas.sorted();
        let n_personas = personas.len().max(1);
        let place = |(key, cell): &(_, Cell)| {
            let [category, persona, a, b]: [u32; 4] = *key;
            let category = category_at[category as usize] * n_personas + persona_at[persona as usize];
            let (a, b) = (model_at[a as usize], model_at[b as usize]);
            let cell = Cell { category, a, b, ..*cell };
            if a < b {
                (cell, false)
            } else {
                (Cell { a: b, b: a, won: cell.won.swapped(), squares: cell.squares.swapped(), ..cell }, true)
            }
        };
        let placed: Vec<(Cell, bool)> = self.cells.iter().map(place).collect();
        let mut order: Vec<usize> = (0..placed.len()).collect();
        order.sort_by_key(|at| (placed[*at].0.category, placed[*at].0.a, placed[*at].0.b));
        let mut cell_at = vec![0; order.len()];
        order.iter().enumerate().for_each(|(at, old)| cell_at[*old] = at);
        let moved = |part: &Part| Part {
            cell: cell_at[part.cell],
            won: if placed[part.cell].1 { part.won.swapped() } else { part.won },
            ..*part
        };
        let n_clusters = self.clusters.all.len();
        let parts = (n_clusters > 0).then(|| merged(self.parts.iter().map(moved).collect()));
        Games {
            models,
            categories: crossed(&categories, &personas),
            personas: n_personas,
            cells: order.iter().map(|at| placed[*at].0).collect(),
            parts,
            clusters: n_clusters,
            rows: self.rows,
        }
    }
}

/// Parts by cluster and cell, one of each.
fn merged(mut parts: Vec<Part>) -> Vec<Part> {
    parts.sort_by_key(|part| (part.cluster, part.cell));
    let mut all: Vec<Part> = Vec::with_capacity(parts.len());
    for part in parts {
        match all.last_mut() {
            Some(last) if (last.cluster, last.cell) == (part.cluster, part.cell) => last.won = last.won.plus(part.won),
            _ => all.push(part),
        }
    }
    all
}

/// `category / persona` of each of both; the category alone where there is one nameless persona.
fn crossed(categories: &[String], personas: &[String]) -> Vec<String> {
    let joined = |category: &String| -> Vec<String> {
        let with =
            |persona: &String| if persona.is_empty() { category.clone() } else { format!("{category} / {persona}") };
        personas.iter().map(with).collect()
    };
    categories.iter().flat_map(joined).collect()
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
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row<'a>(a: &'a str, b: &'a str, won: Tally, cluster: Option<&'a str>) -> Row<'a> {
        Row { a, b, won, category: "c", persona: "", cluster, weight: 2.0 }
    }

    #[test]
    fn order_of_rows_and_sides_changes_nothing() {
        let (win, tie) = (Tally { a: 1.0, ..Tally::default() }, Tally { tie: 1.0, ..Tally::default() });
        let rows = [row("x", "b", win, Some("1")), row("b", "x", tie, Some("2")), row("a", "x", win, Some("1"))];
        let count = |rows: &[Row]| {
            let mut counter = Counter::default();
            rows.iter().for_each(|row| counter.add(*row));
            counter.finish()
        };
        let games = count(&rows);
        assert_eq!(games.models, ["a", "b", "x"]);
        let cell = games.cells[1];
        assert_eq!((cell.a, cell.b, cell.games), (1, 2, 2.0));
        assert_eq!((cell.won, cell.squares), (Tally { a: 0.0, b: 2.0, tie: 2.0 }, Tally { a: 0.0, b: 4.0, tie: 4.0 }));
        let swapped: Vec<Row> = rows.iter().rev().map(|r| Row { a: r.b, b: r.a, won: r.won.swapped(), ..*r }).collect();
        assert_eq!(count(&swapped).cells, games.cells);
        assert_eq!(games.parts.unwrap().len(), 3);
    }
}
