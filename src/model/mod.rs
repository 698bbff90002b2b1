//! The language model: the architectures of Llama, Qwen2, Qwen3 and Qwen3-MoE (grouped-query attention, RoPE, RMSNorm, SwiGLU, tied or
//! untied head; biases or a norm on query and key heads, experts, where the family has them) as two lists of ops, [`mod@forward`] and [`mod@backward`], over buffers sized once.
//!
//! Nothing here sees a host slice of a tensor or knows a device by name; there is no tape: each line of `forward`
//! has its lines in `backward`, in reverse.

mod activations;
pub mod adapter;
pub mod backward;
mod batch;
mod by_layer;
pub mod config;
mod expert_acts;
mod experts;
pub mod files;
pub mod flops;
pub mod forward;
pub mod gradient;
pub mod kv;
mod layout;
mod linear;
mod masks;
mod paged;
pub mod plan;
mod slots;
mod spread;
mod walk;
pub mod weights;

pub use activations::{Activations, Checkpoint, Use};
pub use adapter::{Adapter, Lora};
pub use backward::{backward, no_backward};
pub use batch::{PackedBatch, Packing};
pub use config::{Family, ModelConfig};
pub use forward::{forward, forward_paged, no_forward, ready_paged};
pub use gradient::Gradient;
pub use kv::KvPages;
pub use layout::{Grouped, LayerIds, Layout, Linear, Mlp, TensorId, TensorSpec};
pub use paged::PagedRows;
pub use plan::{Phase, Plan};
pub use slots::Slots;
pub use walk::Walk;
pub use weights::{Keeping, Weights};
