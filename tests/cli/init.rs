//! `haggle init` of published shapes: random weights that load back, the same in one file and in shards.

use crate::support::cli::haggle;
use haggle::device::{DType, Device};
use haggle::model::config::{Experts, preset};
use haggle::model::files::RandomFolder;
use haggle::model::{ModelConfig, TensorId, Weights};
use std::fs;
use std::path::Path;
use tempfile::TempDir;

fn dev() -> Device {
    Device::open("cpu", 1).unwrap()
}

/// A mixture of experts, small.
fn small() -> ModelConfig {
    let mut config = preset("qwen3-30b-a3b").unwrap();
    (config.vocab_size, config.hidden_size, config.num_hidden_layers) = (50, 16, 2);
    (config.num_attention_heads, config.num_key_value_heads, config.head_dim) = (4, 2, 4);
    config.experts = Some(Experts { count: 8, active: 2, intermediate_size: 8, normalise: true });
    config.max_position_embeddings = 64;
    config
}

fn written(dtype: DType, shard_bytes: u64) -> TempDir {
    let dir = TempDir::new().unwrap();
    let mut told = vec![];
    RandomFolder { seed: 3, dtype, shard_bytes }
        .write(&small(), dir.path(), &mut |done, of| told.push((done, of)))
        .unwrap();
    assert!(told.is_sorted() && told.last().is_some_and(|(done, of)| done == of));
    dir
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn bits(dir: &Path) -> Vec<u32> {
    let w = Weights::load(&dev(), dir).unwrap();
    let all = (0..w.layout.specs.len()).flat_map(|id| w.tensor(&dev(), TensorId(id)).unwrap());
    all.map(f32::to_bits).collect()
}

#[test]
fn random_weights_on_disk_are_those_that_init_makes() {
    let w = Weights::init(&dev(), small(), 3).unwrap();
    let all = (0..w.layout.specs.len()).flat_map(|id| w.tensor(&dev(), TensorId(id)).unwrap());
    let (wide, narrow): (Vec<u32>, Vec<u32>) =
        all.map(|x| (x.to_bits(), half::bf16::from_f32(x).to_f32().to_bits())).unzip();
    assert_eq!(bits(written(DType::F32, 1 << 30).path()), wide);
    assert_eq!(bits(written(DType::Bf16, 1 << 30).path()), narrow);
}

#[test]
fn shards_hold_the_bits_of_one_file_and_no_more_than_their_size() {
    let one = written(DType::Bf16, 1 << 30);
    assert_eq!(names(one.path()), ["config.json", "generation_config.json", "model.safetensors"]);
    let want = bits(one.path());
    for most in [1, 2000, 6000] {
        let shards = written(DType::Bf16, most);
        assert_eq!(bits(shards.path()), want, "{most}");
        let names = names(shards.path());
        let files: Vec<_> = names.iter().filter(|n| n.ends_with(".safetensors")).collect();
        assert!(files.len() > 2 && names.contains(&"model.safetensors.index.json".into()), "{names:?}");
        for file in files {
            assert!(file.ends_with(&format!("-of-{:05}.safetensors", names.len() - 3)), "{names:?}");
            let bytes = fs::read(shards.path().join(file)).unwrap();
            let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
            let held: usize = tensors.iter().map(|(_, t)| t.data().len()).sum();
            assert!(held as u64 <= most || tensors.len() == 1, "{file}: {held} bytes of {} tensors", tensors.len());
        }
        let index = fs::read_to_string(shards.path().join("model.safetensors.index.json")).unwrap();
        assert!(index.contains(&format!("\"total_size\": {}", 2 * want.len())), "{index}");
    }
}

#[test]
fn a_disk_without_room_is_named_before_anything_is_written() {
    let dir = TempDir::new().unwrap();
    let mut endless = small();
    (endless.vocab_size, endless.hidden_size) = (1 << 24, 1 << 24);
    let how = RandomFolder { seed: 1, dtype: DType::F32, shard_bytes: 1 << 30 };
    let said = how.write(&endless, dir.path(), &mut |_, _| panic!("writes")).unwrap_err().to_string();
    assert!(said.contains("the weights take") && said.contains("free; name another place"), "{said}");
    assert!(names(dir.path()).is_empty());
}

#[test]
fn a_preset_cut_is_written_by_the_binary_and_speaks_with_a_tokenizer_it_was_given() {
    let dir = TempDir::new().unwrap();
    let at = dir.path();
    haggle(at, &["init", "--out", "tiny", "--threads", "1"]).done();
    let args = ["init", "--preset", "smollm2-135m", "--layers", "1", "--shard-size", "50MB", "--tokenizer", "tiny"];
    let said = haggle(at, &[&args[..], &["--out", "random"]].concat()).done();
    assert!(said.contains("31852224 parameters, random"), "{said}");
    assert!(at.join("random/model-00002-of-00002.safetensors").exists());
    let config = fs::read_to_string(at.join("random/config.json")).unwrap();
    assert!(config.contains("\"dtype\": \"bfloat16\"") && config.contains("\"eos_token_id\": 1"), "{config}");
    let args = ["generate", "--model", "random", "--prompt", "hello", "--max-new-tokens", "1", "--threads", "1"];
    haggle(at, &args).done();
    haggle(at, &["init", "--preset", "qwen3-8b", "--experts", "8", "--out", "x"])
        .refused(2, &["--experts", "has none"]);
    haggle(at, &["init", "--dtype", "f32", "--out", "x"]).refused(2, &["--dtype", "other presets"]);
    haggle(at, &["init", "--preset", "qwen3-8b", "--supervised", "--out", "x"]).refused(2, &["--supervised"]);
    haggle(at, &["init", "--preset", "gpt-2", "--out", "x"]).refused(2, &["gpt-2", "qwen3-30b-a3b"]);
}
