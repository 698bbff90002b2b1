//! Where each parameter lies in the one flat buffer that holds them all; gradients and moments lie alike.

use super::ModelConfig;
use super::config::Experts;
use crate::device::{Buffer, View};
use crate::dist::Stretch;
use std::ops::Range;

/// Tensors start at multiples of this many elements: a cache line of f32. The gaps stay zero.
pub(super) const ALIGN: usize = 16;

/// One parameter tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorSpec {
    /// Its name in Hugging Face files.
    pub name: String,
    /// Its shape; matrices are `[out, in]`.
    pub shape: Vec<usize>,
    /// Its first element in the flat buffer.
    pub offset: usize,
    /// Weight decay applies: true for matrices, false for norms and biases.
    pub decay: bool,
}

impl TensorSpec {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// True when it has no elements; no model has such a tensor.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Rows and columns, if it is a matrix.
    pub fn matrix(&self) -> Option<(usize, usize)> {
        match self.shape[..] {
            [rows, columns] => Some((rows, columns)),
            _ => None,
        }
    }

    /// Its elements in the flat buffer.
    pub fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.len()
    }
}

/// Names one tensor of a [`Layout`]: an index into its specs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TensorId(pub usize);

/// A linear layer: y `[N, out]` = x `[N, in]` W^T + b.
#[derive(Debug, Clone, Copy)]
pub struct Linear {
    /// W `[out, in]`.
    pub weight: TensorId,
    /// b `[out]`, if it has one.
    pub bias: Option<TensorId>,
    /// Elements of an output row.
    pub n_out: usize,
    /// Elements of an input row.
    pub n_in: usize,
}

/// A linear layer of each expert: E matrices `[out, in]` without gaps between them.
#[derive(Debug, Clone, Copy)]
pub struct Grouped {
    /// The first expert's; the others' follow.
    pub first: TensorId,
    /// Experts E.
    pub n_experts: usize,
    /// Elements of an output row.
    pub n_out: usize,
    /// Elements of an input row.
    pub n_in: usize,
}

/// What a layer makes of its normed residual stream.
#[derive(Debug, Clone, Copy)]
pub enum Mlp {
    /// One MLP.
    Dense {
        /// Gate projection, to F.
        gate: Linear,
        /// Up projection, to F.
        up: Linear,
        /// Down projection, from F.
        down: Linear,
    },
    /// One of each expert.
    Experts {
        /// Which experts a token goes to: projection to E.
        router: Linear,
        /// Gate projections, to F.
        gate: Grouped,
        /// Up projections, to F.
        up: Grouped,
        /// Down projections, from F.
        down: Grouped,
    },
}

/// The tensors of one layer.
#[derive(Debug, Clone, Copy)]
pub struct LayerIds {
    /// Norm before attention `[C]`.
    pub attn_norm: TensorId,
    /// Query projection, to H D.
    pub q: Linear,
    /// Key projection, to Hk D.
    pub k: Linear,
    /// Value projection, to Hk D.
    pub v: Linear,
    /// Output projection, from H D.
    pub o: Linear,
    /// Norms of each query and each key head `[D]`, in families that have them.
    pub head_norms: Option<[TensorId; 2]>,
    /// Norm before the MLP `[C]`.
    pub mlp_norm: TensorId,
    /// The MLP, or the experts.
    pub mlp: Mlp,
}

/// Every tensor of a model and its place.
#[derive(Debug, Clone)]
pub struct Layout {
    /// All tensors, in ascending offset.
    pub specs: Vec<TensorSpec>,
    /// Token embedding `[V, C]`.
    pub embed: TensorId,
    /// The layers, first to last.
    pub layers: Vec<LayerIds>,
    /// Final norm `[C]`.
    pub norm: TensorId,
    /// Head `[V, C]`: the embedding itself when tied.
    pub head: TensorId,
    /// Elements of the flat buffer, gaps included.
    pub len: usize,
}

impl Layout {
    /// The bucket of the embedding.
    pub const EMBED: usize = 0;

    /// The layout of a model.
    pub fn new(c: &ModelConfig) -> Layout {
        let mut b = Builder::default();
        let (width, f, q, kv) = (c.hidden_size, c.intermediate_size, c.q_dim(), c.kv_dim());
        let embed = b.add("model.embed_tokens.weight".into(), &[c.vocab_size, width]);
        let (biased, normed) = (c.family.biases_heads(), c.family.norms_heads());
        let layers = (0..c.num_hidden_layers)
            .map(|l| {
                let at = |name: &str| format!("model.layers.{l}.{name}");
                LayerIds {
                    attn_norm: b.norm(at("input_layernorm"), width),
                    q: b.linear(at("self_attn.q_proj"), q, width, biased),
                    k: b.linear(at("self_attn.k_proj"), kv, width, biased),
                    v: b.linear(at("self_attn.v_proj"), kv, width, biased),
                    o: b.linear(at("self_attn.o_proj"), width, q, false),
                    head_norms: normed
                        .then(|| ["self_attn.q_norm", "self_attn.k_norm"].map(|name| b.norm(at(name), c.head_dim))),
                    mlp_norm: b.norm(at("post_attention_layernorm"), width),
                    mlp: match c.experts {
                        None => Mlp::Dense {
                            gate: b.linear(at("mlp.gate_proj"), f, width, false),
                            up: b.linear(at("mlp.up_proj"), f, width, false),
                            down: b.linear(at("mlp.down_proj"), width, f, false),
                        },
                        Some(Experts { count, intermediate_size: f, .. }) => Mlp::Experts {
                            router: b.linear(at("mlp.gate"), count, width, false),
                            gate: b.grouped(|e| at(&format!("mlp.experts.{e}.gate_proj")), count, f, width),
                            up: b.grouped(|e| at(&format!("mlp.experts.{e}.up_proj")), count, f, width),
                            down: b.grouped(|e| at(&format!("mlp.experts.{e}.down_proj")), count, width, f),
                        },
                    },
                }
            })
            .collect();
        let norm = b.norm("model.norm".into(), width);
        let head = if c.tie_word_embeddings { embed } else { b.add("lm_head.weight".into(), &[c.vocab_size, width]) };
        Layout { specs: b.specs, embed, layers, norm, head, len: b.len }
    }

    /// The buckets of the parameters, end to end: the embedding, each layer (the last one with the final norm), and the head
    /// where it is its own; each in stretches, of which every projection of a layer's experts is one.
    pub fn buckets(&self) -> Vec<Vec<Stretch>> {
        let begins = self.layers.iter().map(|ids| self.specs[ids.attn_norm.0].offset);
        let head = (self.head != self.embed).then(|| self.specs[self.head.0].offset);
        let ends: Vec<usize> = begins.chain(head).chain([self.len]).collect();
        let starts = [0].into_iter().chain(ends.iter().copied());
        starts.zip(&ends).enumerate().map(|(bucket, (start, end))| self.stretches(bucket, start..*end)).collect()
    }

    /// A bucket's stretches.
    fn stretches(&self, bucket: usize, range: Range<usize>) -> Vec<Stretch> {
        let mlp =
            bucket.checked_sub(Layout::bucket_of_layer(0)).and_then(|layer| self.layers.get(layer)).map(|l| l.mlp);
        let groups = if let Some(Mlp::Experts { gate, up, down, .. }) = mlp { vec![gate, up, down] } else { vec![] };
        let (mut stretches, mut start) = (vec![], range.start);
        for group in groups {
            let experts = Stretch { range: self.group(&group, 0..group.n_experts), experts: group.n_experts };
            let before = start..experts.range.start;
            start = experts.range.end;
            stretches.extend((!before.is_empty()).then_some(Stretch::plain(before)));
            stretches.push(experts);
        }
        stretches.extend((start < range.end).then_some(Stretch::plain(start..range.end)));
        stretches
    }

    /// The bucket of a layer.
    pub fn bucket_of_layer(layer: usize) -> usize {
        Layout::EMBED + 1 + layer
    }

    /// The bucket of the head: the embedding's when tied.
    pub fn bucket_of_head(&self) -> usize {
        if self.head == self.embed { Layout::EMBED } else { Layout::bucket_of_layer(self.layers.len()) }
    }

    /// Parameters of the model, without the gaps.
    pub fn n_params(&self) -> usize {
        self.specs.iter().map(TensorSpec::len).sum()
    }

    /// The tensor of that name.
    pub fn find(&self, name: &str) -> Option<TensorId> {
        self.specs.iter().position(|s| s.name == name).map(TensorId)
    }

    /// A tensor in a flat buffer of this layout, to read.
    pub fn of<'a>(&self, flat: &'a Buffer, id: TensorId) -> View<'a> {
        flat.at(self.specs[id.0].range())
    }

    /// Where the matrices `[E, out, in]` of these experts lie.
    pub fn group(&self, g: &Grouped, experts: Range<usize>) -> Range<usize> {
        let [first, last] = [experts.start, experts.end - 1].map(|expert| &self.specs[g.first.0 + expert]);
        first.offset..last.range().end
    }
}

/// Where each tensor's part of a buffer lies, if it takes `len` of it, and the buffer's length.
pub(super) fn end_to_end(specs: &[TensorSpec], len: impl Fn(&TensorSpec) -> usize) -> (Vec<Range<usize>>, usize) {
    let mut end = 0;
    let mut place = |spec: &TensorSpec| {
        let start = end;
        end += len(spec);
        start..end
    };
    (specs.iter().map(&mut place).collect(), end)
}

#[derive(Default)]
struct Builder {
    specs: Vec<TensorSpec>,
    len: usize,
}

impl Builder {
    fn norm(&mut self, name: String, dim: usize) -> TensorId {
        self.add(format!("{name}.weight"), &[dim])
    }

    fn linear(&mut self, name: String, n_out: usize, n_in: usize, biased: bool) -> Linear {
        let weight = self.add(format!("{name}.weight"), &[n_out, n_in]);
        let bias = biased.then(|| self.add(format!("{name}.bias"), &[n_out]));
        Linear { weight, bias, n_out, n_in }
    }

    fn grouped(&mut self, name: impl Fn(usize) -> String, n_experts: usize, n_out: usize, n_in: usize) -> Grouped {
        let first = TensorId(self.specs.len());
        for expert in 0..n_experts {
            // No gap: a product reads all experts' matrices as one.
            self.len = self.specs[first.0..].last().map_or(self.len, |before| before.range().end);
            self.add(format!("{}.weight", name(expert)), &[n_out, n_in]);
        }
        Grouped { first, n_experts, n_out, n_in }
    }

    fn add(&mut self, name: String, shape: &[usize]) -> TensorId {
        let spec = TensorSpec { name, shape: shape.to_vec(), offset: self.len, decay: shape.len() > 1 };
        self.len = (self.len + spec.len()).next_multiple_of(ALIGN);
        self.specs.push(spec);
        TensorId(self.specs.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_lie_end_to_end_and_hold_each_projection_of_a_layers_experts_without_the_gaps() {
        // Three matrices of 5 x 6 end between two lines.
        let experts = Experts { count: 3, active: 1, intermediate_size: 5, normalise: true };
        let shape = ModelConfig { hidden_size: 6, num_hidden_layers: 2, ..ModelConfig::tiny(64) };
        let of = |experts| Layout::new(&ModelConfig { experts, ..shape.clone() }).buckets();
        for (buckets, projections) in [(of(Some(experts)), 3), (of(None), 0)] {
            let all: Vec<&Stretch> = buckets.iter().flatten().collect();
            assert!(
                all[0].range.start == 0 && all.windows(2).all(|two| two[0].range.end == two[1].range.start),
                "{all:?}"
            );
            for layer in &buckets[1..3] {
                let whole: Vec<_> = layer.iter().filter(|stretch| stretch.experts > 0).collect();
                assert_eq!(whole.len(), projections);
                assert!(
                    whole.iter().all(|stretch| stretch.experts == 3 && stretch.range.len() == 3 * 5 * 6),
                    "{layer:?}"
                );
            }
        }
    }
}
