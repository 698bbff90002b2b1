//! A model's shape, and its `config.json` in the Hugging Face form of each family we compute.
//!
//! One struct for all of them: families differ in what it says, not in code that asks for a family's name. Both spellings
//! are read, that of transformers 5 (`rope_parameters`, `dtype`) and of 4 (`rope_theta`, `rope_scaling`, `torch_dtype`).
//! What we do not compute is refused by name, all of it at once, never ignored.

mod presets;
mod read;
mod rope;
#[cfg(test)]
mod tests;
mod write;

pub use presets::{NAMES as PRESETS, preset};
pub use rope::{Llama3Scaling, Rope};

use crate::device::DType;
use crate::disk::read_fetched;
use crate::error::{Error, Result};
use crate::ops::attn::Heads;
use std::path::Path;

/// The architectures we compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Llama 2 and 3, and what is built like them (SmolLM2, TinyLlama, ...).
    Llama,
    /// Qwen2 and Qwen2.5: biases on queries, keys and values.
    Qwen2,
    /// Qwen3, dense: a norm on each query and key head.
    Qwen3,
    /// Qwen3 with a mixture of experts in the place of every MLP.
    Qwen3Moe,
}

impl Family {
    /// All of them.
    pub const ALL: [Family; 4] = [Family::Llama, Family::Qwen2, Family::Qwen3, Family::Qwen3Moe];

    /// As `config.json` names it under `architectures`.
    pub fn architecture(self) -> &'static str {
        match self {
            Family::Llama => "LlamaForCausalLM",
            Family::Qwen2 => "Qwen2ForCausalLM",
            Family::Qwen3 => "Qwen3ForCausalLM",
            Family::Qwen3Moe => "Qwen3MoeForCausalLM",
        }
    }

    /// As `config.json` names it under `model_type`.
    pub fn model_type(self) -> &'static str {
        match self {
            Family::Llama => "llama",
            Family::Qwen2 => "qwen2",
            Family::Qwen3 => "qwen3",
            Family::Qwen3Moe => "qwen3_moe",
        }
    }

    /// Each query and key head is normed before it is rotated.
    pub fn norms_heads(self) -> bool {
        matches!(self, Family::Qwen3 | Family::Qwen3Moe)
    }

    /// Queries, keys and values have biases.
    pub fn biases_heads(self) -> bool {
        matches!(self, Family::Qwen2)
    }
}

/// A mixture of experts in the place of each layer's MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Experts {
    /// Experts E.
    pub count: usize,
    /// Experts A that a token goes to.
    pub active: usize,
    /// Width F of an expert's MLP.
    pub intermediate_size: usize,
    /// A token's gates are divided by their sum.
    pub normalise: bool,
}

/// The shape of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// Which architecture it is.
    pub family: Family,
    /// Vocabulary V.
    pub vocab_size: usize,
    /// Width C of the residual stream.
    pub hidden_size: usize,
    /// Layers L.
    pub num_hidden_layers: usize,
    /// Query heads H.
    pub num_attention_heads: usize,
    /// Key/value heads Hk.
    pub num_key_value_heads: usize,
    /// Head dim D.
    pub head_dim: usize,
    /// MLP width F; with experts, that of no layer.
    pub intermediate_size: usize,
    /// The experts, in families that have them.
    pub experts: Option<Experts>,
    /// Added to the mean square in RMSNorm.
    pub rms_norm_eps: f32,
    /// How positions become rotary angles.
    pub rope: Rope,
    /// The head's weight is the embedding.
    pub tie_word_embeddings: bool,
    /// Positions a sequence may have.
    pub max_position_embeddings: usize,
    /// Positions the folder states, where a run allows fewer; not in `config.json`, whose number it is.
    pub stated_positions: Option<usize>,
    /// Tokens that end a sequence; a single number in most files.
    pub eos_token_ids: Vec<u32>,
    /// The tokenizer's ids lie below this, where it has fewer than the embedding has rows: the rest is never sampled.
    /// Not in `config.json`: read from the tokenizer beside it.
    pub token_end: Option<usize>,
    /// What the weights are stored in: Bf16 when every tensor of the folder is, else F32. Not in `config.json`: read from
    /// the weights beside it.
    pub stored: DType,
    /// Token that begins a text, if there is one.
    pub bos_token_id: Option<u32>,
    /// Token that pads a batch, if there is one; we never pad.
    pub pad_token_id: Option<u32>,
    /// What is multiplied, kept and cached: F32, or Bf16 on devices that run our kernels. Not in `config.json`:
    /// a run chooses it. Sums, norms' scales, logits and logprobs are f32 in both, and so are the weights that train.
    pub compute: DType,
    /// Rank of the adapter over the weights; 0: there is none. Not in `config.json`.
    pub adapter_rank: usize,
}

impl ModelConfig {
    /// The tiny preset: about one million parameters at a vocabulary of 2,048.
    pub fn tiny(vocab_size: usize) -> ModelConfig {
        ModelConfig {
            family: Family::Qwen3,
            vocab_size,
            hidden_size: 128,
            num_hidden_layers: 4,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            head_dim: 32,
            intermediate_size: 384,
            experts: None,
            rms_norm_eps: 1e-6,
            rope: Rope::plain(10_000.0),
            tie_word_embeddings: true,
            max_position_embeddings: 1024,
            stated_positions: None,
            eos_token_ids: vec![],
            token_end: None,
            stored: DType::F32,
            bos_token_id: None,
            pad_token_id: None,
            compute: DType::F32,
            adapter_rank: 0,
        }
    }

    /// Reads `config.json`.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read, [`Error::Data`] with every unsupported or impossible entry by name.
    pub fn read(path: &Path) -> Result<ModelConfig> {
        let text = read_fetched(path)?;
        let text = str::from_utf8(&text).map_err(|e| Error::data(path, format!("not UTF-8: {e}")))?;
        ModelConfig::parse(text).map_err(|what| Error::data(path, what))
    }

    /// The attention heads, with the usual factor 1 / sqrt(D).
    pub fn heads(&self) -> Heads {
        let scale = 1.0 / (self.head_dim as f32).sqrt();
        Heads { q: self.num_attention_heads, kv: self.num_key_value_heads, dim: self.head_dim, scale }
    }

    /// The same, for sequences of at most `context` positions; 0: as many as the folder states.
    pub fn within(self, context: usize) -> ModelConfig {
        let stated = self.stated_positions();
        let fewer = context > 0 && context < stated;
        ModelConfig {
            max_position_embeddings: if fewer { context } else { stated },
            stated_positions: fewer.then_some(stated),
            ..self
        }
    }

    /// Positions the folder states.
    pub fn stated_positions(&self) -> usize {
        self.stated_positions.unwrap_or(self.max_position_embeddings)
    }

    /// Ids that may be sampled lie below this.
    pub fn sampled_end(&self) -> usize {
        self.token_end.map_or(self.vocab_size, |end| end.clamp(1, self.vocab_size))
    }

    /// MLP rows of a call of `n` tokens, and their width F: with experts a row for each that a token goes to.
    pub fn mlp_rows(&self, n: usize) -> (usize, usize) {
        match self.experts {
            None => (n, self.intermediate_size),
            Some(experts) => (n * experts.active, experts.intermediate_size),
        }
    }

    /// Width of all query heads, H D.
    pub fn q_dim(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Width of all key (or value) heads, Hk D.
    pub fn kv_dim(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }
}
