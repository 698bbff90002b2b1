//! Counting rows into cells.
//!
//! The one idea: names are sorted once all are known, and a cell's first model is the first by name, so nothing depends on the
//! order of rows or on who stands first in them.

use super::games::{Cell, Games, Part, Tally, Vote, Votes};
use foldhash::HashMap;
use std::collections::hash_map::Entry;

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
    /// Covariates, as the first model less the second.
    pub features: &'a [f64],
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
    votes: Votes,
    rows: u64,
}

/// Names by the order of their first row.
#[derive(Debug, Default)]
struct Names {
    all: Vec<String>,
    of: HashMap<String, u32>,
    /// The last one asked for: rows of one category follow each other.
    last: u32,
}

impl Names {
    fn id(&mut self, name: &str) -> u32 {
        if self.all.get(self.last as usize).is_some_and(|last| last == name) {
            return self.last;
        }
        self.last = match self.of.get(name) {
            Some(id) => *id,
            None => {
                let id = self.all.len() as u32;
                self.all.push(name.into());
                self.of.insert(name.into(), id);
                id
            }
        };
        self.last
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
        let sign = if a < b { 1.0 } else { -1.0 };
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
        let cluster = row.cluster.map(|cluster| self.clusters.id(cluster) as usize);
        let won = won.times(row.weight);
        self.parts.extend(cluster.map(|cluster| Part { cluster, cell: at, won }));
        if !row.features.is_empty() {
            self.votes.all.push(Vote { cell: at, cluster, won });
            self.votes.features.extend(row.features.iter().map(|x| sign * x));
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
        let mut votes = self.votes;
        let k = votes.features.len().checked_div(votes.all.len()).unwrap_or(0);
        for (at, vote) in votes.all.iter_mut().enumerate() {
            if placed[vote.cell].1 {
                vote.won = vote.won.swapped();
                votes.features[at * k..(at + 1) * k].iter_mut().for_each(|x| *x = -*x);
            }
            vote.cell = cell_at[vote.cell];
        }
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
            votes: (k > 0).then_some(votes),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn row<'a>(a: &'a str, b: &'a str, won: Tally, cluster: Option<&'a str>) -> Row<'a> {
        Row { a, b, won, category: "c", persona: "", cluster, weight: 2.0, features: &[] }
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
