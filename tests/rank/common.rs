//! Boards whose truth is known: ratings of a low rank, games played unevenly. For tests and the bench.
#![allow(dead_code)] // each file uses a part

use haggle::noise::Noise;
use haggle::rank::count::{Counter, Row};
use haggle::rank::games::{Games, Tally};
use haggle::rank::linalg::{Matrix, truncated};

/// A truth and how its games are played.
#[derive(Debug, Clone)]
pub struct World {
    /// Ratings `[T, M]`, each category's mean 0.
    pub theta: Matrix,
    /// The chance of each cell `(category, a, b)`, cumulated.
    cells: Vec<(usize, usize, usize, f64)>,
}

/// What troubles a world.
#[derive(Debug, Clone, Copy, Default)]
pub struct Trouble {
    /// Standard deviation of ratings around the low rank.
    pub noise: f64,
    /// One rating off by this.
    pub odd: f64,
    /// Models of a scenario that all play each other in it, 0 for games on their own: a model that a scenario suits wins more
    /// than one of its games.
    pub scenario: usize,
}

/// The rating that an odd world moves.
pub const ODD: (usize, usize) = (3, 5);

impl World {
    /// A world of rank 2: a common pattern, and one in which categories differ.
    pub fn new(models: usize, categories: usize, trouble: Trouble, seed: u64) -> World {
        let noise = Noise::new(seed, 1);
        let normal = |label: u64, n: usize| (0..n).map(|i| noise.child(label).normal(i as u64)).collect::<Vec<_>>();
        let common: Vec<f64> = normal(1, categories).iter().map(|x| 1.0 + 0.2 * x).collect();
        let (own, strength, taste) = (normal(2, categories), normal(3, models), normal(4, models));
        let (strength, taste) = (centred(&strength), centred(&taste));
        let drawn = Matrix::from_fn(categories, models, |t, m| common[t] * strength[m] + 0.3 * own[t] * taste[m]);
        let (u, _, v) = truncated(drawn.as_ref(), categories.min(2)).unwrap();
        // Singular values of the study's board of 10 categories and 20 models.
        let size = (categories as f64 * models as f64 / 200.0).sqrt();
        let stray = normal(5, models * categories);
        let mut theta = Matrix::from_fn(categories, models, |t, m| {
            let patterns = [10.7, 3.0].iter().take(u.ncols()).enumerate();
            let rank_two: f64 = patterns.map(|(k, value)| value * u[(t, k)] * v[(m, k)]).sum();
            size * rank_two + trouble.noise * stray[t * models + m]
        });
        if trouble.odd != 0.0 {
            theta[ODD] += trouble.odd;
        }
        let theta = haggle::rank::shape::rows_centred(&theta);
        World { theta, cells: cells(models, categories, noise.child(6)) }
    }

    /// Games of this world.
    pub fn play(&self, n: usize, trouble: Trouble, seed: u64) -> Games {
        let noise = Noise::new(seed, 2);
        if trouble.scenario > 0 {
            return self.play_scenarios(n, trouble.scenario, &noise);
        }
        let mut counter = Counted::new(self);
        for at in 0..n as u64 {
            let (category, a, b) = self.cell(noise.child(1).uniform_f64(at));
            let eta = self.theta[(category, a)] - self.theta[(category, b)];
            counter.add(category, [a, b], noise.child(2).uniform_f64(at) < 1.0 / (1.0 + (-eta).exp()), None);
        }
        counter.games.finish()
    }

    /// The same number of games, all pairs of `k` models a scenario. A model does as well in a scenario as its rating and a
    /// draw of Gumbel's law say, and beats who does worse: so each game has the very chance of a lone one (the difference of two
    /// such draws is logistic; Thurstone's case of Luce's model, Yellott 1977), and the games of a scenario depend on each other.
    fn play_scenarios(&self, n: usize, k: usize, noise: &Noise) -> Games {
        let mut counter = Counted::new(self);
        for scenario in 0..(n / (k * (k - 1) / 2)) as u64 {
            let draw = noise.child(3 + scenario);
            let category = self.cell(draw.uniform_f64(0)).0;
            let mut models = Vec::new();
            for at in 1.. {
                let (_, a, b) = self.cell(draw.uniform_f64(at));
                [a, b].into_iter().for_each(|model| {
                    if models.len() < k && !models.contains(&model) {
                        models.push(model);
                    }
                });
                if models.len() == k {
                    break;
                }
            }
            let luck = |model: usize| -(-draw.child(1).uniform_f64(model as u64).ln()).ln();
            let does: Vec<f64> = models.iter().map(|model| self.theta[(category, *model)] + luck(*model)).collect();
            for a in 0..k {
                for b in a + 1..k {
                    counter.add(category, [models[a], models[b]], does[a] > does[b], Some(scenario));
                }
            }
        }
        counter.games.finish()
    }

    /// The cell at a share of all games.
    fn cell(&self, share: f64) -> (usize, usize, usize) {
        let x = share * self.cells[self.cells.len() - 1].3;
        let (category, a, b, _) = self.cells[self.cells.partition_point(|c| c.3 < x).min(self.cells.len() - 1)];
        (category, a, b)
    }
}

/// Games as they are counted, with the names of their models and categories.
struct Counted {
    games: Counter,
    models: Vec<String>,
    categories: Vec<String>,
}

impl Counted {
    fn new(world: &World) -> Counted {
        let models = (0..world.theta.ncols()).map(|i| format!("model{i:03}")).collect();
        let categories = (0..world.theta.nrows()).map(|i| format!("category{i:03}")).collect();
        Counted { games: Counter::default(), models, categories }
    }

    fn add(&mut self, category: usize, [a, b]: [usize; 2], first: bool, cluster: Option<u64>) {
        let cluster = cluster.map(|scenario| scenario.to_string());
        self.games.add(Row {
            a: &self.models[a],
            b: &self.models[b],
            won: Tally { a: f64::from(u8::from(first)), b: f64::from(u8::from(!first)), tie: 0.0 },
            category: &self.categories[category],
            persona: "",
            cluster: cluster.as_deref(),
            weight: 1.0,
            features: &[],
        });
    }
}

/// Cells that are played unevenly, as on a board of votes: categories and models differ in how often they are met, and the
/// cell met most is met 116 times as often as the one met least.
fn cells(models: usize, categories: usize, noise: Noise) -> Vec<(usize, usize, usize, f64)> {
    let met = |label: u64, i: usize| noise.child(label).normal(i as u64);
    let of = |t, a, b| 0.4 * met(1, t) + 0.5 * (met(2, a) + met(2, b));
    let pairs = (0..categories).flat_map(|t| (0..models).flat_map(move |a| (a + 1..models).map(move |b| (t, a, b))));
    let cells: Vec<(usize, usize, usize, f64)> = pairs.map(|(t, a, b)| (t, a, b, of(t, a, b))).collect();
    let least = cells.iter().map(|cell| cell.3).fold(f64::INFINITY, f64::min);
    let most = cells.iter().map(|cell| cell.3).fold(f64::NEG_INFINITY, f64::max);
    let by = 116_f64.ln() / (most - least);
    let mut sum = 0.0;
    let cumulated = |(t, a, b, met): (usize, usize, usize, f64)| {
        sum += (by * met).exp();
        (t, a, b, sum)
    };
    cells.into_iter().map(cumulated).collect()
}

fn centred(x: &[f64]) -> Vec<f64> {
    let mean = x.iter().sum::<f64>() / x.len() as f64;
    x.iter().map(|x| x - mean).collect()
}

/// What a board's intervals did over many.
#[derive(Debug, Clone, Default)]
pub struct Coverage {
    /// Per gap how often its interval held, and how often it had one.
    held: Vec<(u32, u32)>,
    boards: u32,
    length: f64,
    together: f64,
    standings: f64,
}

impl Coverage {
    /// Counts a board of this truth; `only` picks the gaps `(category, a, b)` that count.
    pub fn add(
        &mut self,
        board: &haggle::rank::board::Board,
        theta: &Matrix,
        only: impl Fn(usize, usize, usize) -> bool,
    ) {
        let mut at = 0;
        for (category, standing) in board.categories.iter().enumerate() {
            let mut all = true;
            for gap in standing.gaps.iter().filter(|gap| only(category, gap.a, gap.b)) {
                let truth = theta[(category, gap.a)] - theta[(category, gap.b)];
                if self.held.len() <= at {
                    self.held.push((0, 0));
                }
                // Of a model that only won there is no interval, and nothing is said that could fail.
                if let (Some([low, high]), Some([size, se])) = (gap.interval, gap.known) {
                    self.held[at].0 += u32::from((low..=high).contains(&truth));
                    self.held[at].1 += 1;
                    self.length += high - low;
                    all &= (size - truth).abs() <= standing.critical * se;
                }
                at += 1;
            }
            self.together += f64::from(u8::from(all));
            self.standings += 1.0;
        }
        self.boards += 1;
    }

    fn shares(&self) -> Vec<f64> {
        let known = self.held.iter().filter(|(_, seen)| *seen > 0);
        let mut shares: Vec<f64> = known.map(|(held, seen)| f64::from(*held) / f64::from(*seen)).collect();
        shares.sort_by(f64::total_cmp);
        shares
    }

    /// The share of intervals that held.
    pub fn pointwise(&self) -> f64 {
        mean(&self.shares())
    }

    /// The same of the twentieth of gaps where fewest did.
    pub fn worst_twentieth(&self) -> f64 {
        let shares = self.shares();
        mean(&shares[..shares.len().div_ceil(20)])
    }

    /// The share of categories all of whose gaps the band held.
    pub fn simultaneous(&self) -> f64 {
        self.together / self.standings
    }

    /// The mean length of an interval, in logits.
    pub fn length(&self) -> f64 {
        self.length / self.held.iter().map(|(_, seen)| f64::from(*seen)).sum::<f64>()
    }

    /// The share of gaps that had no interval.
    pub fn unknown(&self) -> f64 {
        let all = f64::from(self.boards) * self.held.len() as f64;
        1.0 - self.held.iter().map(|(_, seen)| f64::from(*seen)).sum::<f64>() / all
    }
}

fn mean(x: &[f64]) -> f64 {
    x.iter().sum::<f64>() / x.len() as f64
}
