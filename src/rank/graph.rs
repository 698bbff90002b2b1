//! Who can be compared: components of the games of a category, and those inside of which ratings are finite.
//!
//! The one idea: models that never met, even over others, have no gap; a model that only won against its group has an
//! infinite one. Neither becomes a number.
//!
//! Source: Ford 1957, "Solution of a ranking problem from binary comparisons"; Tarjan 1972 for strong components.

use super::games::Cell;

/// The groups of a category's models.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Groups {
    /// Each model's component: those who met, over others too. `[M]`, numbered by their first model.
    pub met: Vec<usize>,
    /// Each model's group of finite gaps: everyone in it has points against someone in it, all around. `[M]`.
    pub finite: Vec<usize>,
}

/// Why there is no gap between two models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unknown {
    /// They never met, nor did others between them.
    Apart,
    /// All points between their groups went one way: the gap is infinite.
    Infinite,
}

impl Groups {
    /// The groups of `n` models by cells of one category.
    pub fn of(n: usize, cells: &[Cell]) -> Groups {
        let mut scored = vec![Vec::new(); n];
        for cell in cells {
            if cell.won.score() > 0.0 {
                scored[cell.a].push(cell.b);
            }
            if cell.won.swapped().score() > 0.0 {
                scored[cell.b].push(cell.a);
            }
        }
        Groups { met: components(&scored), finite: strong(&scored) }
    }

    /// Why two models cannot be compared; `None` where they can.
    pub fn unknown(&self, a: usize, b: usize) -> Option<Unknown> {
        match (self.met[a] == self.met[b], self.finite[a] == self.finite[b]) {
            (false, _) => Some(Unknown::Apart),
            (true, false) => Some(Unknown::Infinite),
            (true, true) => None,
        }
    }

    /// True when every gap is finite.
    pub fn whole(&self) -> bool {
        self.finite.iter().all(|group| *group == 0)
    }

    /// The models of each group of finite gaps, the largest first.
    pub fn by_size(&self) -> Vec<Vec<usize>> {
        let mut groups = listed(&self.finite);
        groups.sort_by_key(|group| (std::cmp::Reverse(group.len()), group[0]));
        groups
    }
}

/// The members of each group, by its number.
pub fn listed(group: &[usize]) -> Vec<Vec<usize>> {
    let mut all = vec![Vec::new(); group.iter().max().map_or(0, |last| last + 1)];
    group.iter().enumerate().for_each(|(model, of)| all[*of].push(model));
    all
}

/// Components, directions aside.
fn components(scored: &[Vec<usize>]) -> Vec<usize> {
    let mut parent: Vec<usize> = (0..scored.len()).collect();
    for (a, others) in scored.iter().enumerate() {
        for b in others {
            let (x, y) = (top(&mut parent, a), top(&mut parent, *b));
            parent[x.max(y)] = x.min(y);
        }
    }
    numbered((0..scored.len()).map(|model| top(&mut parent, model)).collect())
}

fn top(parent: &mut [usize], mut at: usize) -> usize {
    while parent[at] != at {
        parent[at] = parent[parent[at]];
        at = parent[at];
    }
    at
}

/// Strong components: two walks over the graph, the second backwards in the order in which the first ended.
fn strong(scored: &[Vec<usize>]) -> Vec<usize> {
    let n = scored.len();
    let mut back = vec![Vec::new(); n];
    scored.iter().enumerate().for_each(|(a, others)| others.iter().for_each(|b| back[*b].push(a)));
    let (mut seen, mut ended) = (vec![false; n], Vec::with_capacity(n));
    for start in 0..n {
        walk(scored, start, &mut seen, &mut |model| ended.push(model));
    }
    let (mut group, mut seen) = (vec![0; n], vec![false; n]);
    for start in ended.into_iter().rev() {
        walk(&back, start, &mut seen, &mut |model| group[model] = start);
    }
    numbered(group)
}

/// Walks depth first from `start` over what was not seen, and calls each model when all behind it are done.
fn walk(next: &[Vec<usize>], start: usize, seen: &mut [bool], done: &mut dyn FnMut(usize)) {
    if std::mem::replace(&mut seen[start], true) {
        return;
    }
    let mut way = vec![(start, 0)];
    while let Some((model, at)) = way.last_mut() {
        match next[*model].get(*at) {
            Some(other) => {
                *at += 1;
                if !std::mem::replace(&mut seen[*other], true) {
                    way.push((*other, 0));
                }
            }
            None => {
                done(*model);
                way.pop();
            }
        }
    }
}

/// Groups numbered by their first model.
fn numbered(of: Vec<usize>) -> Vec<usize> {
    let mut number = vec![usize::MAX; of.len()];
    let mut n = 0;
    of.iter()
        .map(|group| {
            if number[*group] == usize::MAX {
                number[*group] = n;
                n += 1;
            }
            number[*group]
        })
        .collect()
}
