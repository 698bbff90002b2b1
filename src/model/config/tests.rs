//! What is read, written and refused of `config.json`.

use super::*;
use serde_json::{Map, Value, json};

fn parse(edit: impl FnOnce(&mut Map<String, Value>)) -> Result<ModelConfig, String> {
    let mut json: Value = serde_json::from_str(&ModelConfig::tiny(64).to_json()).unwrap();
    edit(json.as_object_mut().unwrap());
    ModelConfig::parse(&json.to_string())
}

#[test]
fn a_config_written_reads_back_the_same() {
    let mut config = ModelConfig::tiny(64);
    config.eos_token_ids = vec![3, 5];
    config.pad_token_id = Some(0);
    config.rope = Rope::plain(1e6);
    assert_eq!(ModelConfig::parse(&config.to_json()), Ok(config));
}

#[test]
fn both_spellings_of_rope_theta_are_read() {
    let old = parse(|j| {
        j.remove("rope_parameters");
        j.insert("rope_theta".into(), json!(5e5));
    });
    assert_eq!(old.unwrap().rope.theta, 5e5);
    let new = parse(|j| {
        j.remove("rope_theta");
        j.insert("rope_parameters".into(), json!({"rope_theta": 7e5, "rope_type": "default"}));
    });
    assert_eq!(new.unwrap().rope.theta, 7e5);
}

#[test]
fn what_is_not_computed_is_refused_by_name() {
    for (key, value) in [
        ("architectures", json!(["GPT2LMHeadModel"])),
        ("architectures", json!(["LlamaForCausalLM"])),
        ("model_type", json!("qwen3_moe")),
        ("hidden_act", json!("gelu")),
        ("attention_bias", json!(true)),
        ("use_sliding_window", json!(true)),
        ("layer_types", json!(["full_attention", "sliding_attention"])),
        ("rope_scaling", json!({"type": "yarn", "factor": 4.0})),
        ("rope_parameters", json!({"rope_type": "linear", "factor": 2.0})),
        ("rope_parameters", json!({"rope_type": "default", "rope_theta": 1e4, "factor": 2.0})),
        ("rope_parameters", json!({"rope_theta": 5e5})),
        ("rope_parameters", json!({"full_attention": {"rope_theta": 1e4}})),
        ("rope_scaling", json!({"rope_type": "llama3", "factor": 8.0})),
        ("rope_scaling", json!("llama3")),
        ("rope_theta", json!(5e5)),
        ("rope_local_base_freq", json!(1e4)),
        ("partial_rotary_factor", json!(0.5)),
        ("mlp_bias", json!(true)),
        ("quantization_config", json!({"bits": 4})),
        ("attention_dropout", json!(0.1)),
        ("vocab_size", json!(0)),
        ("hidden_size", json!("wide")),
        ("rms_norm_eps", json!(-1)),
        ("head_dim", json!(33)),
        ("num_key_value_heads", json!(3)),
        ("eos_token_id", json!(64)),
        ("bos_token_id", json!("<s>")),
        ("tie_word_embeddings", json!("yes")),
    ] {
        let problem = parse(|j| drop(j.insert(key.into(), value.clone()))).unwrap_err();
        assert!(problem.contains(key) || problem.contains("token id 64"), "{key}: {problem}");
    }
}

#[test]
fn every_problem_is_named_at_once() {
    let problem = parse(|j| {
        j.remove("hidden_size");
        j.insert("hidden_act".into(), json!("relu"));
    });
    let problem = problem.unwrap_err();
    assert!(problem.contains("hidden_size is missing") && problem.contains("hidden_act"), "{problem}");
    assert!(ModelConfig::parse("[1]").is_err() && ModelConfig::parse("{").is_err());
}

fn llama(edit: impl FnOnce(&mut Map<String, Value>)) -> Result<ModelConfig, String> {
    let shape = ModelConfig { family: Family::Llama, rope: preset("llama3-8b").unwrap().rope, ..ModelConfig::tiny(64) };
    let mut json: Value = serde_json::from_str(&shape.to_json()).unwrap();
    edit(json.as_object_mut().unwrap());
    ModelConfig::parse(&json.to_string())
}

#[test]
fn every_family_written_reads_back_the_same() {
    for name in PRESETS {
        let shape = preset(name).unwrap();
        assert_eq!(ModelConfig::parse(&shape.to_json()), Ok(shape), "{name}");
    }
}

#[test]
fn the_scaling_of_llama3_is_read_in_both_spellings_and_must_be_one() {
    let want = preset("llama3-8b").unwrap().rope;
    for gone in ["rope_scaling", "rope_parameters"] {
        assert_eq!(llama(|j| drop(j.remove(gone))).unwrap().rope, want, "without {gone}");
    }
    let problem = llama(|j| j["rope_scaling"]["factor"] = json!(32.0)).unwrap_err();
    assert!(problem.contains("rope_scaling and rope_parameters contradict"), "{problem}");
    let problem = llama(|j| j["rope_parameters"]["beta_fast"] = json!(32.0)).unwrap_err();
    assert!(problem.contains("rope_parameters.beta_fast 32.0 is not supported"), "{problem}");
}

#[test]
fn what_llama_leaves_out_is_what_its_reference_takes() {
    let config = llama(|j| {
        j.remove("head_dim");
        j.remove("num_key_value_heads");
    });
    let config = config.unwrap();
    assert_eq!((config.head_dim, config.num_key_value_heads), (32, 4));
    let problem = llama(|j| {
        j.remove("head_dim");
        j.insert("num_attention_heads".into(), json!(3));
    });
    assert!(problem.unwrap_err().contains("hidden_size 128 is no multiple of num_attention_heads 3"));
}

#[test]
fn an_architecture_we_do_not_compute_is_refused_with_those_we_do() {
    for json in [json!({"architectures": ["GemmaForCausalLM"]}), json!({"model_type": "gemma"}), json!({})] {
        let problem = ModelConfig::parse(&json.to_string()).unwrap_err();
        assert!(problem.contains("LlamaForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM"), "{problem}");
    }
    let problem = llama(|j| drop(j.insert("model_type".into(), json!("qwen2")))).unwrap_err();
    assert!(problem.contains("model_type \"qwen2\" is not that of architectures"), "{problem}");
}

#[test]
fn a_run_on_fewer_positions_writes_the_folders_number() {
    let shape = ModelConfig::tiny(64);
    let (short, long) = (shape.clone().within(100), shape.clone().within(5000));
    assert_eq!((short.max_position_embeddings, long.max_position_embeddings), (100, 1024));
    assert_eq!(ModelConfig::parse(&short.to_json()), Ok(shape.clone()));
    assert_eq!(short.within(0), shape);
}
