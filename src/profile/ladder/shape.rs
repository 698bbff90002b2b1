//! Which ladder, at which shape: letters and sizes, `M=256,N=256,K=256`.

use crate::device::DType;
use crate::device::gpu::Gpu;
use crate::error::{Error, Result};
use crate::ops::attn::{self, Heads};
use crate::ops::case::Stage;
use crate::ops::ladder::Rung;
use crate::ops::{gemm, logprob};

/// The most that a letter may be.
const MOST: usize = 1 << 20;

/// A ladder at a shape that all of its rungs take.
#[derive(Debug, Clone, PartialEq)]
pub enum Ladder {
    /// `c = a b^T`: M, N, K.
    Gemm([usize; 3]),
    /// Causal attention over packed sequences: their lengths, and heads.
    Attn(Vec<usize>, Heads),
    /// Logprobs of targets: N rows, V tokens, width C.
    Head([usize; 3]),
}

impl Ladder {
    /// What there is.
    pub const NAMES: [&str; 3] = ["gemm", "attn", "head"];

    /// A ladder by its name, at its own shape but for the letters that `shape` gives.
    ///
    /// # Errors
    /// [`Error::Config`] for a name or letter that there is not, and for sizes that not every rung takes.
    pub fn at(name: &str, shape: Option<&str>) -> Result<Ladder> {
        let (letters, default): (&[&str], &[&[usize]]) = match name {
            "gemm" => (&["M", "N", "K"], &[&[256], &[256], &[256]]),
            "attn" => (&["T", "H", "Hk", "D"], &[&[384, 128], &[2], &[1], &[64]]),
            "head" => (&["N", "V", "C"], &[&[1024], &[4096], &[64]]),
            _ => return refuse(format!("no ladder is named `{name}`; there are {}", Ladder::NAMES.join(", "))),
        };
        let mut sizes: Vec<Vec<usize>> = default.iter().map(|sizes| sizes.to_vec()).collect();
        for part in shape.iter().flat_map(|shape| shape.split(',')) {
            let told = part.split_once('=').and_then(|(letter, text)| {
                let at = letters.iter().position(|l| *l == letter.trim())?;
                let parsed: Option<Vec<usize>> = text.split('+').map(|n| n.trim().parse().ok()).collect();
                parsed.filter(|of| of.len() == 1 || letters[at] == "T").map(|of| (at, of))
            });
            let Some((at, of)) = told else {
                let example = letters.iter().zip(&sizes).map(|(letter, of)| format!("{letter}={}", joined(of)));
                let example = example.collect::<Vec<_>>().join(",");
                return refuse(format!("--shape {part}: the ladder of {name} has a shape like {example}"));
            };
            sizes[at] = of;
        }
        if let Some(wrong) = sizes.iter().flatten().find(|n| !(1..=MOST).contains(*n)) {
            return refuse(format!("--shape: sizes are 1 to {MOST}, one is {wrong}"));
        }
        let one = |at: usize| sizes[at][0];
        match name {
            "gemm" => Ladder::Gemm([one(0), one(1), one(2)]).checked(),
            "attn" => {
                let [q, kv, dim] = [one(1), one(2), one(3)];
                Ladder::Attn(sizes[0].clone(), Heads { q, kv, dim, scale: 1.0 / (dim as f32).sqrt() }).checked()
            }
            _ => Ladder::Head([one(0), one(1), one(2)]).checked(),
        }
    }

    /// Itself, if every rung takes the shape.
    fn checked(self) -> Result<Ladder> {
        let rules: Vec<(bool, &str)> = match &self {
            Ladder::Gemm([_, _, k]) => vec![(k % 8 == 0, "K is a multiple of 8")],
            Ladder::Attn(lens, heads) => vec![
                ([64, 128].contains(&heads.dim), "D is 64 or 128"),
                (heads.q % heads.kv == 0 && heads.q <= 256, "H is a multiple of Hk, at most 256"),
                (lens.iter().sum::<usize>() <= 1 << 16, "sequences have 65536 tokens together at most"),
            ],
            Ladder::Head([_, v, c]) => {
                vec![(*v > 2048, "V is above 2048, one span of sums"), (c % 8 == 0, "C is a multiple of 8")]
            }
        };
        match rules.iter().find(|(holds, _)| !holds) {
            Some((_, rule)) => {
                refuse(format!("--shape: every rung of the ladder of {} must take it: {rule}", self.name()))
            }
            None => Ok(self),
        }
    }

    /// Its name on the command line.
    pub fn name(&self) -> &'static str {
        match self {
            Ladder::Gemm(_) => Ladder::NAMES[0],
            Ladder::Attn(..) => Ladder::NAMES[1],
            Ladder::Head(_) => Ladder::NAMES[2],
        }
    }

    /// What it computes.
    pub fn formula(&self) -> &'static str {
        match self {
            Ladder::Gemm(_) => "c = a b^T in bf16, sums in f32",
            Ladder::Attn(..) => "o = softmax(scale q k^T) v in bf16, causal, packed",
            Ladder::Head(_) => "logprob = z[target] - ln sum exp z,  z = x w^T, x and w in bf16",
        }
    }

    /// Calls its rungs.
    pub(super) fn calls(&self, s: &mut Stage) -> Result<()> {
        match self {
            Ladder::Gemm(dims) => gemm::cases::climb(s, *dims),
            Ladder::Attn(lens, heads) => attn::cases::climb(s, lens, *heads),
            Ladder::Head(dims) => logprob::cases::climb(s, *dims, 1.0),
        }
    }

    /// Its rungs, whether a device runs them or not.
    pub fn rungs(&self) -> Vec<Rung> {
        match self {
            Ladder::Gemm(_) => gemm::ladder::RUNGS.iter().map(|(rung, _)| *rung).collect(),
            Ladder::Attn(..) => attn::ladder::RUNGS.iter().map(|(rung, _)| *rung).collect(),
            Ladder::Head(_) => logprob::ladder::RUNGS.iter().map(|(rung, _)| *rung).collect(),
        }
    }

    /// Bytes that a rung keeps beside inputs and outputs.
    pub(super) fn scratch_bytes(&self, gpu: &Gpu, rung: &Rung) -> usize {
        match self {
            Ladder::Gemm(_) => 0,
            Ladder::Attn(lens, heads) => {
                let how = attn::ladder::RUNGS.iter().find(|(own, _)| own == rung).map(|(_, how)| *how);
                let (n, longest) = (lens.iter().sum(), lens.iter().copied().max().unwrap_or(0));
                how.map_or(0, |how| attn::ladder::scratch_bytes(how, n, longest, *heads))
            }
            Ladder::Head(dims) => {
                let how = logprob::ladder::RUNGS.iter().find(|(own, _)| own == rung).map(|(_, how)| *how);
                how.map_or(0, |how| logprob::ladder::scratch(gpu, how, *dims) * DType::F32.size())
            }
        }
    }
}

fn joined(sizes: &[usize]) -> String {
    sizes.iter().map(usize::to_string).collect::<Vec<_>>().join("+")
}

fn refuse<T>(problem: String) -> Result<T> {
    Err(Error::Config { problems: vec![problem] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_that_are_given_replace_those_of_the_ladders_own_shape() {
        assert_eq!(Ladder::at("gemm", Some("K=64")).unwrap(), Ladder::Gemm([256, 256, 64]));
        let Ladder::Attn(lens, heads) = Ladder::at("attn", Some("T=5+0007, Hk=1,D=128")).unwrap() else { panic!() };
        assert_eq!((lens, heads.q, heads.kv, heads.dim), (vec![5, 7], 2, 1, 128));
        assert!(matches!(Ladder::at("head", None).unwrap(), Ladder::Head([_, v, _]) if v > 2048));
    }

    #[test]
    fn what_no_ladder_or_not_every_rung_takes_is_refused_in_a_line() {
        let refused = |name: &str, shape: &str, part: &str| {
            let refusal = Ladder::at(name, Some(shape)).unwrap_err().to_string();
            assert!(refusal.contains(part) && !refusal.contains('\n'), "{refusal}");
        };
        refused("conv", "", "there are gemm, attn, head");
        refused("gemm", "X=3", "M=256,N=256,K=256");
        refused("gemm", "256", "M=256");
        refused("gemm", "M=3+4", "M=256");
        refused("gemm", "M=-1", "M=256");
        refused("gemm", "M=0", "1 to 1048576");
        refused("gemm", "K=99999999999999999", "1 to 1048576");
        refused("gemm", "K=12", "a multiple of 8");
        refused("attn", "D=32", "D is 64 or 128");
        refused("attn", "Hk=4", "multiple of Hk");
        refused("head", "V=2048", "above 2048");
        refused("head", "C=20", "multiple of 8");
    }
}
