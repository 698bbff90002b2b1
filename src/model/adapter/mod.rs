//! A low-rank adapter: what is added to the matrices of a frozen model, `y = x W^T + (alpha / r) (x A^T) B^T`.
//!
//! The one idea: A `[r, in]` and B `[out, r]` are kept as they train and as files hold them, in f32; forwards read a copy in
//! what the model computes in, of B times `alpha / r`, so that the factor costs no launch.
//!
//! Source: Hu et al. 2021, arXiv:2106.09685; with `rank_stabilised` the factor is that of Kalajdzievski 2023,
//! arXiv:2312.03732.

mod config;

pub use config::{Lora, TARGETS, parse};

use super::layout::end_to_end;
use super::{LayerIds, Layout, Linear, Mlp, ModelConfig, Plan, TensorId, TensorSpec};
use crate::device::{Buffer, Device, View, ViewMut};
use crate::error::Result;
use crate::noise::Noise;
use crate::ops::embed::{copy, scale};
use crate::ops::gemm::{Matrix, gemm_pack, panels_len};
use std::ops::Range;

/// Its group in a plan.
const GROUP: &str = "adapter";

/// The pair of a matrix.
#[derive(Debug, Clone, Copy)]
struct Pair {
    a: TensorId,
    b: TensorId,
}

/// The tensors of an adapter and their places in one flat buffer: every A, then every B.
#[derive(Debug, Clone)]
struct Places {
    specs: Vec<TensorSpec>,
    /// By the matrix of the model.
    pairs: Vec<Option<Pair>>,
    /// Where the first B lies, and the end.
    b: usize,
    len: usize,
}

/// An adapter on one device.
pub struct Adapter {
    /// What it is.
    pub lora: Lora,
    /// Its model, as a config or a file names it.
    pub base_name: String,
    places: Places,
    data: Buffer,
    read: Buffer,
    panels: Buffer,
    panels_at: Vec<Range<usize>>,
}

/// The pair of a matrix `[out, in]`, as forwards read it.
pub(super) struct LowRank<'a> {
    /// A `[r, in]`.
    pub a: Matrix<'a>,
    /// B `[out, r]` times the factor.
    pub b: Matrix<'a>,
    /// r.
    pub rank: usize,
    /// `alpha / r`.
    pub factor: f32,
    /// Where their gradients lie.
    pub at: [Range<usize>; 2],
}

impl Adapter {
    /// A new adapter through a plan: A uniform with deviation `1 / sqrt(3 in)`, as linear layers begin in PyTorch, B zero, so
    /// that the model is what it was. A tensor's values depend on seed and name alone.
    ///
    /// # Errors
    /// [`crate::Error::Memory`].
    pub fn planned(plan: &mut Plan, c: &ModelConfig, layout: &Layout, lora: Lora, seed: u64) -> Result<Adapter> {
        let mut new = Adapter::zeros(plan, c, layout, lora)?;
        if !plan.is_dry() {
            let dev = plan.device().clone();
            for spec in new.places.specs.iter().filter(|spec| spec.offset < new.places.b) {
                dev.write(new.data.at_mut(spec.range()), &initial(spec, seed));
            }
        }
        Ok(new)
    }

    /// An adapter of zeros through a plan.
    ///
    /// # Errors
    /// [`crate::Error::Memory`].
    pub(super) fn zeros(plan: &mut Plan, c: &ModelConfig, layout: &Layout, lora: Lora) -> Result<Adapter> {
        let (dev, places) = (plan.device().clone(), places(layout, &lora));
        let data = plan.f32(GROUP, "A and B", places.len)?;
        let read = plan.buffer(GROUP, "A and B, as forwards read them", c.compute, places.len)?;
        let of = |spec: &TensorSpec| spec.matrix().map_or(0, |(n, k)| panels_len(&dev, n, k, c.compute));
        let (panels_at, end) = end_to_end(&places.specs, of);
        let panels = plan.f32(GROUP, "A and B, in panels", end)?;
        Ok(Adapter { lora, base_name: String::new(), places, data, read, panels, panels_at })
    }

    /// Its tensors, as PEFT names them, in ascending offset.
    pub fn specs(&self) -> &[TensorSpec] {
        &self.places.specs
    }

    /// Elements of the flat buffer.
    pub fn n_elements(&self) -> usize {
        self.places.len
    }

    /// Every A and every B, flat; f32.
    pub fn data(&self) -> View<'_> {
        self.data.view()
    }

    pub(super) fn data_mut(&mut self) -> ViewMut<'_> {
        self.data.view_mut()
    }

    /// Writes a tensor.
    pub(super) fn set(&mut self, dev: &Device, spec: &TensorSpec, values: &[f32]) {
        dev.write(self.data.at_mut(spec.range()), values);
    }

    /// Where A and B of a matrix lie in the flat buffer, if it has them.
    pub fn pair(&self, w: TensorId) -> Option<[Range<usize>; 2]> {
        self.places.pairs[w.0].map(|pair| [pair.a, pair.b].map(|id| self.places.specs[id.0].range()))
    }

    /// Makes what forwards read.
    ///
    /// # Errors
    /// What the device refuses.
    pub(super) fn pack(&mut self, dev: &Device) -> Result<()> {
        let Places { specs, b, len, .. } = &self.places;
        copy(dev, self.data.at(0..*b), self.read.at_mut(0..*b))?;
        scale(dev, self.data.at(*b..*len), self.read.at_mut(*b..*len), self.lora.factor() as f32)?;
        for (spec, at) in specs.iter().zip(&self.panels_at).filter(|(_, at)| !at.is_empty()) {
            if let Some((n, k)) = spec.matrix() {
                gemm_pack(dev, self.read.at(spec.range()), self.panels.at_mut(at.clone()), n, k)?;
            }
        }
        Ok(())
    }

    /// The pair of a matrix, if it has one.
    pub(super) fn of(&self, w: TensorId) -> Option<LowRank<'_>> {
        let pair = self.places.pairs[w.0]?;
        let matrix = |id: TensorId| {
            let at = self.panels_at[id.0].clone();
            let panels = (!at.is_empty()).then(|| self.panels.at(at));
            Matrix { rows: self.read.at(self.places.specs[id.0].range()), panels }
        };
        let (at, rank, factor) = (self.pair(w)?, self.lora.rank, self.lora.factor() as f32);
        Some(LowRank { a: matrix(pair.a), b: matrix(pair.b), rank, factor, at })
    }

    /// Bytes of everything.
    pub fn size_bytes(&self) -> usize {
        self.data.size_bytes() + self.read.size_bytes() + self.panels.size_bytes()
    }
}

/// The layer's linear layers by target.
fn linears(ids: &LayerIds) -> Vec<(&'static str, Linear)> {
    let mut all = vec![ids.q, ids.k, ids.v, ids.o];
    if let Mlp::Dense { gate, up, down } = ids.mlp {
        all.extend([gate, up, down]);
    }
    TARGETS.into_iter().zip(all).collect()
}

fn places(layout: &Layout, lora: &Lora) -> Places {
    let mut b = Builder { specs: vec![], len: 0 };
    let all = layout.layers.iter().flat_map(linears).filter(|(name, _)| lora.targets.contains(name));
    let all: Vec<Linear> = all.map(|(_, linear)| linear).collect();
    let mut pairs = vec![None; layout.specs.len()];
    let first: Vec<TensorId> =
        all.iter().map(|l| b.add(&layout.specs[l.weight.0].name, "lora_A", [lora.rank, l.n_in])).collect();
    let begin = b.len;
    for (l, a) in all.iter().zip(first) {
        let second = b.add(&layout.specs[l.weight.0].name, "lora_B", [l.n_out, lora.rank]);
        pairs[l.weight.0] = Some(Pair { a, b: second });
    }
    Places { specs: b.specs, pairs, b: begin, len: b.len }
}

struct Builder {
    specs: Vec<TensorSpec>,
    len: usize,
}

impl Builder {
    fn add(&mut self, of: &str, part: &str, shape: [usize; 2]) -> TensorId {
        let name = format!("base_model.model.{}.{part}.weight", of.trim_end_matches(".weight"));
        let spec = TensorSpec { name, shape: shape.to_vec(), offset: self.len, decay: true };
        self.len = (self.len + spec.len()).next_multiple_of(super::layout::ALIGN);
        self.specs.push(spec);
        TensorId(self.specs.len() - 1)
    }
}

/// He et al. 2015, arXiv:1502.01852, with the slope sqrt(5): uniform between -1 / sqrt(in) and 1 / sqrt(in).
fn initial(spec: &TensorSpec, seed: u64) -> Vec<f32> {
    let bound = 1.0 / (spec.shape[1] as f64).sqrt();
    let noise = Noise::named(seed, &spec.name);
    (0..spec.len()).map(|i| ((2.0 * noise.uniform_f64(i as u64) - 1.0) * bound) as f32).collect()
}
