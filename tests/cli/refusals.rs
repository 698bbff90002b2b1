//! Folders that cannot be loaded rightly are refused, each with one line: what, where, what to do.

use crate::support::cli::haggle;
use haggle::config::Config;
use haggle::device::{DType, Device};
use haggle::embedded;
use haggle::model::{Lora, ModelConfig, Plan, Weights};
use haggle::setup::base;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const EMBED: &str = "model.embed_tokens.weight";
const NORM: &str = "model.norm.weight";

fn dev() -> Device {
    Device::open("cpu", 1).unwrap()
}

/// A whole small model in a folder, with the tokenizer of the embedded one.
fn folder(tied: bool) -> TempDir {
    let chat = embedded::chat().unwrap();
    let mut config = ModelConfig::tiny(chat.tokenizer.vocab());
    (config.hidden_size, config.num_hidden_layers, config.head_dim, config.intermediate_size) = (16, 1, 4, 8);
    config.tie_word_embeddings = tied;
    config.eos_token_ids = vec![chat.end() as u32];
    let dir = TempDir::new().unwrap();
    base::save(&dev(), &Weights::init(&dev(), config, 4).unwrap(), &chat, dir.path()).unwrap();
    dir
}

fn tensors(path: &Path) -> Tensors {
    let bytes = fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    file.iter().map(|(n, t)| (n.into(), (t.dtype(), t.shape().to_vec(), t.data().to_vec()))).collect()
}

fn write(path: &Path, tensors: &Tensors) {
    let views = tensors.iter().map(|(n, (d, s, b))| (n, TensorView::new(*d, s.clone(), b).unwrap()));
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// The folder's weights edited.
fn edit_weights(dir: &Path, edit: impl FnOnce(&mut Tensors)) {
    let mut all = tensors(&dir.join(SINGLE));
    edit(&mut all);
    write(&dir.join(SINGLE), &all);
}

fn edit_json(path: &Path, edit: impl FnOnce(&mut Map<String, Value>)) {
    let mut json: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    edit(json.as_object_mut().unwrap());
    fs::write(path, json.to_string()).unwrap();
}

/// The folder's weights in two shards: the norm in b, the rest in a.
fn shard(dir: &Path) {
    let (mut a, mut b) = (tensors(&dir.join(SINGLE)), Tensors::new());
    b.insert(NORM.into(), a.remove(NORM).unwrap());
    let places = a.keys().map(|name| (name, "a.safetensors")).chain(b.keys().map(|name| (name, "b.safetensors")));
    let map: BTreeMap<_, _> = places.collect();
    fs::write(dir.join(INDEX), json!({ "weight_map": map }).to_string()).unwrap();
    write(&dir.join("a.safetensors"), &a);
    write(&dir.join("b.safetensors"), &b);
    fs::remove_file(dir.join(SINGLE)).unwrap();
    base::open(&dev(), dir.to_str().unwrap(), &Config::default()).unwrap();
}

/// Every way of opening the weights refuses them in one line with these parts and exit code 3.
#[track_caller]
fn refused(dir: &Path, parts: &[&str]) {
    let name = dir.to_str().unwrap();
    let tries = [
        Weights::load(&dev(), dir).err(),
        Weights::load_frozen(&dev(), dir, DType::F32).err(),
        base::open(&dev(), name, &Config::default()).err(),
    ];
    for error in tries {
        let error = error.expect("must be refused");
        let said = error.to_string();
        assert_eq!((error.exit_code(), said.lines().count()), (3, 1), "{said}");
        assert!(said.starts_with(name), "names the place: {said}");
        for part in parts {
            assert!(said.contains(part), "want `{part}` in: {said}");
        }
    }
}

/// What opening the model to talk to says; its weights are well.
fn unspeakable(dir: &Path) -> String {
    Weights::load(&dev(), dir).unwrap();
    let error = base::open(&dev(), dir.to_str().unwrap(), &Config::default()).err().expect("must be refused");
    assert_eq!((error.exit_code(), error.to_string().lines().count()), (3, 1), "{error}");
    error.to_string()
}

/// The binary refuses the folder in one line with these parts.
#[track_caller]
fn generate_refuses(dir: &Path, parts: &[&str]) {
    haggle(dir, &["generate", "--model", ".", "--prompt", "hello"]).refused(3, parts);
}

#[test]
fn a_whole_folder_is_not_refused() {
    for tied in [true, false] {
        let dir = folder(tied);
        base::open(&dev(), dir.path().to_str().unwrap(), &Config::default()).unwrap();
        let args = ["generate", "--model", ".", "--max-new-tokens", "1", "--prompt", "hello"];
        haggle(dir.path(), &args).done();
    }
}

#[test]
fn a_shard_that_the_index_names_is_missing() {
    let dir = folder(true);
    shard(dir.path());
    fs::remove_file(dir.path().join("b.safetensors")).unwrap();
    let parts = [INDEX, "names the shard b.safetensors, which is not in the folder; fetch it"];
    refused(dir.path(), &parts);
    generate_refuses(dir.path(), &parts);
}

#[test]
fn a_tensor_is_not_in_the_shard_that_the_index_places_it_in() {
    let dir = folder(true);
    shard(dir.path());
    edit_json(&dir.path().join(INDEX), |j| j["weight_map"][NORM] = json!("a.safetensors"));
    // A place for b to be named at all.
    edit_json(&dir.path().join(INDEX), |j| j["weight_map"]["model.other"] = json!("b.safetensors"));
    let parts = ["places tensor `model.norm.weight` in a.safetensors, which holds no such", "save the folder again"];
    refused(dir.path(), &parts);
}

#[test]
fn a_shard_holds_a_tensor_that_the_index_does_not_name_or_names_elsewhere() {
    let dir = folder(true);
    shard(dir.path());
    let (a, b) = (dir.path().join("a.safetensors"), dir.path().join("b.safetensors"));
    let norm = tensors(&b)[NORM].clone();
    let mut all = tensors(&a);
    all.insert(NORM.into(), norm.clone());
    write(&a, &all);
    refused(dir.path(), &["a.safetensors: holds tensor `model.norm.weight`, which", INDEX, "places in b.safetensors"]);
    all.remove(NORM);
    all.insert("model.old.weight".into(), norm);
    write(&a, &all);
    refused(dir.path(), &["a.safetensors: holds tensor `model.old.weight`, which", "does not name", "one save"]);
}

#[test]
fn a_single_file_and_an_index_of_others_contradict() {
    let dir = folder(true);
    let single = fs::read(dir.path().join(SINGLE)).unwrap();
    shard(dir.path());
    fs::write(dir.path().join(SINGLE), &single).unwrap();
    refused(dir.path(), &["holds model.safetensors and an index of other files; remove the one"]);
    // An index that names the single file alone is one with it.
    let names = tensors(&dir.path().join(SINGLE)).into_keys();
    let map: BTreeMap<_, _> = names.map(|name| (name, SINGLE)).collect();
    fs::write(dir.path().join(INDEX), json!({ "weight_map": map }).to_string()).unwrap();
    Weights::load(&dev(), dir.path()).unwrap();
}

#[test]
fn a_shard_ends_before_its_header_says() {
    let dir = folder(true);
    shard(dir.path());
    let path = dir.path().join("a.safetensors");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 7]).unwrap();
    let sizes = format!("want {} bytes by its header, got {}", whole.len(), whole.len() - 7);
    refused(dir.path(), &["a.safetensors: truncated", &sizes, "fetch or save it again"]);
    for (len, part) in [(0, "0 bytes, no header"), (5, "5 bytes, no header"), (100, "header alone, got 100")] {
        fs::write(&path, &whole[..len]).unwrap();
        refused(dir.path(), &["a.safetensors: truncated", part]);
    }
}

#[test]
fn bytes_follow_the_last_tensor() {
    let dir = folder(true);
    let path = dir.path().join(SINGLE);
    let whole = fs::read(&path).unwrap();
    fs::write(&path, [&whole[..], &[0; 9]].concat()).unwrap();
    let sizes = format!("9 bytes follow the last tensor: want {}, got {}", whole.len(), whole.len() + 9);
    refused(dir.path(), &[SINGLE, &sizes]);
}

#[test]
fn tensors_are_of_types_that_are_not_computed() {
    for (dtype, size, said) in [
        (Dtype::I8, 1, "I8"),
        (Dtype::U8, 1, "U8"),
        (Dtype::F8_E4M3, 1, "F8_E4M3"),
        (Dtype::F8_E5M2, 1, "F8_E5M2"),
        (Dtype::F64, 8, "F64"),
    ] {
        let dir = folder(true);
        edit_weights(dir.path(), |all| drop(all.insert(NORM.into(), (dtype, vec![16], vec![0; 16 * size]))));
        refused(dir.path(), &[NORM, "want F32, BF16 or F16", &format!("got {said}")]);
    }
}

#[test]
fn quantised_tensors_are_named_before_what_they_stand_for() {
    for end in ["qweight", "weight_scale_inv", "weight_packed", "absmax"] {
        let dir = folder(true);
        let name = format!("model.layers.0.self_attn.q_proj.{end}");
        edit_weights(dir.path(), |all| {
            all.remove("model.layers.0.self_attn.q_proj.weight").unwrap();
            all.insert(name.clone(), (Dtype::I32, vec![2, 2], vec![0; 16]));
        });
        refused(dir.path(), &[&name, "not quantised; take the model's bf16 folder"]);
    }
}

#[test]
fn a_config_asks_for_what_is_not_computed() {
    for (key, value, part) in [
        ("quantization_config", json!({"quant_method": "gptq", "bits": 4}), "quantised weights are not supported"),
        ("rope_parameters", json!({"rope_theta": 5e5, "rope_type": "default"}), "contradict"),
        ("rope_scaling", json!({"rope_type": "yarn", "factor": 4.0}), "yarn"),
        ("rope_local_base_freq", json!(1e4), "rope_local_base_freq 10000.0 is not supported"),
        ("num_key_value_heads", json!(3), "num_attention_heads 4 is no multiple of num_key_value_heads 3"),
        ("use_sliding_window", json!(true), "use_sliding_window true is not supported"),
        ("layer_types", json!(["sliding_attention"]), "only \"full_attention\" is supported"),
        ("architectures", json!(["GemmaForCausalLM"]), "LlamaForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM"),
    ] {
        let dir = folder(true);
        edit_json(&dir.path().join("config.json"), |j| drop(j.insert(key.into(), value)));
        refused(dir.path(), &["config.json: ", key, part]);
        generate_refuses(dir.path(), &["config.json", part]);
    }
}

#[test]
fn a_tied_flag_contradicts_the_tensors_in_both_directions() {
    let dir = folder(true);
    edit_weights(dir.path(), |all| {
        let mut head = all[EMBED].clone();
        head.2[0] ^= 1;
        all.insert("lm_head.weight".into(), head);
    });
    refused(dir.path(), &["lm_head.weight", "tie_word_embeddings is true", "other values"]);
    let dir = folder(false);
    edit_weights(dir.path(), |all| drop(all.remove("lm_head.weight")));
    refused(dir.path(), &["lm_head.weight", "set tie_word_embeddings true if the head is the embedding"]);
}

#[test]
fn weights_that_are_no_numbers_are_found_at_load() {
    for (bits, said) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (f32::NEG_INFINITY, "-inf")] {
        let dir = folder(true);
        edit_weights(dir.path(), |all| all.get_mut(NORM).unwrap().2[8..12].copy_from_slice(&bits.to_le_bytes()));
        refused(dir.path(), &[SINGLE, NORM, "want finite values", &format!("got {said} at element 2")]);
    }
}

#[test]
fn gguf_is_refused_with_how_it_is_converted() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("model-q4.gguf"), "GGUF").unwrap();
    let parts = ["model-q4.gguf: GGUF is not read", "gguf_file=\"model-q4.gguf\"", "save_pretrained"];
    refused(dir.path(), &parts);
    generate_refuses(dir.path(), &parts);
    let file = dir.path().join("model-q4.gguf");
    let said = base::open(&dev(), file.to_str().unwrap(), &Config::default()).err().unwrap().to_string();
    assert!(parts.iter().all(|part| said.contains(part)), "{said}");
}

#[test]
fn a_tokenizer_has_more_ids_than_the_embedding_has_rows() {
    let dir = folder(true);
    edit_json(&dir.path().join("tokenizer.json"), |j| {
        let added = j["added_tokens"].as_array_mut().unwrap();
        let mut more = added[0].clone();
        (more["id"], more["content"]) = (json!(2048), json!("<|more|>"));
        added.push(more);
    });
    let parts = ["ids up to 2048", "embedding 2048 rows", "take the tokenizer"];
    let said = unspeakable(dir.path());
    assert!(parts.iter().all(|part| said.contains(part)), "{said}");
    generate_refuses(dir.path(), &parts);
}

#[test]
fn no_token_ends_a_text() {
    let dir = folder(true);
    for file in ["config.json", "generation_config.json"] {
        edit_json(&dir.path().join(file), |j| drop(j.remove("eos_token_id")));
    }
    edit_json(&dir.path().join("tokenizer_config.json"), |j| drop(j.remove("eos_token")));
    generate_refuses(dir.path(), &["no token ends a text", "eos_token_id", "--stop"]);
    // Training ends replies with what the template writes; a template that writes no token of its own is refused.
    let path = dir.path().join("chat_template.jinja");
    fs::write(&path, fs::read_to_string(&path).unwrap().replace("<|end|>", "\n")).unwrap();
    let said = unspeakable(dir.path());
    assert!(said.contains("chat template") && said.contains("eos_token"), "{said}");
}

#[test]
fn templates_that_raise_loop_forever_or_rewrite_the_past() {
    let ours = haggle::text::chat::TEMPLATE;
    let forever = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
    let past = ours.replace("message['content']", "(message['content'] if loop.last else message['content'][:3])");
    for (template, part) in [
        ("{{ raise_exception('roles must alternate') }}".to_string(), "roles must alternate"),
        (format!("{forever}{ours}"), "does it loop forever?"),
        (past, "cannot be used"),
        ("{% for".into(), "line 1"),
    ] {
        let dir = folder(true);
        fs::write(dir.path().join("chat_template.jinja"), template).unwrap();
        let said = unspeakable(dir.path());
        assert!(said.contains("chat_template.jinja: chat template") && said.contains(part), "{said}");
    }
}

/// An adapter of rank 2 over a whole folder, saved; both.
fn adapter() -> (TempDir, TempDir) {
    let (dev, base) = (dev(), folder(true));
    let model = base::open(&dev, base.path().to_str().unwrap(), &Config::default()).unwrap();
    let targets = haggle::model::adapter::TARGETS.to_vec();
    let lora = Lora { rank: 2, alpha: 4.0, rank_stabilised: false, dropout: 0.0, targets };
    let over = model.weights.base().unwrap();
    let mut own = Weights::planned_over(&mut Plan::on(&dev), over, lora, 1).unwrap();
    own.name_base(&model.root);
    let dir = TempDir::new().unwrap();
    base::save(&dev, &own, &model.chat, dir.path()).unwrap();
    (base, dir)
}

/// Opening an adapter is refused in one line that names its place and these parts.
#[track_caller]
fn adapter_refused(dir: &Path, parts: &[&str]) {
    let name = dir.to_str().unwrap();
    let error = base::open(&dev(), name, &Config::default()).err().expect("must be refused");
    let said = error.to_string();
    assert_eq!((error.exit_code(), said.lines().count()), (3, 1), "{said}");
    assert!(said.starts_with(name), "names the place: {said}");
    parts.iter().for_each(|part| assert!(said.contains(part), "want `{part}` in: {said}"));
}

fn edit_adapter(dir: &Path, edit: impl FnOnce(&mut Tensors)) {
    let path = dir.join("adapter_model.safetensors");
    let mut all = tensors(&path);
    edit(&mut all);
    write(&path, &all);
}

const LORA_A: &str = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";

#[test]
fn a_whole_adapter_is_not_refused_wherever_a_model_is_named() {
    let (base, dir) = adapter();
    haggle(dir.path(), &["generate", "--model", ".", "--max-new-tokens", "1", "--prompt", "hello"]).done();
    // Its base named, where the one that it names is gone.
    let moved = TempDir::new().unwrap();
    for entry in fs::read_dir(base.path()).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, moved.path().join(path.file_name().unwrap())).unwrap();
    }
    let gone = base.path().display().to_string();
    drop(base);
    adapter_refused(dir.path(), &["base_model_name_or_path names", &gone, "no folder here", "model.adapter_base=DIR"]);
    let named = format!("model.adapter_base={}", moved.path().display());
    let args = ["generate", "--model", ".", "--set", &named, "--max-new-tokens", "1", "--prompt", "hello"];
    haggle(dir.path(), &args).done();
}

#[test]
fn an_adapter_of_another_base_is_refused_by_its_shapes_or_by_its_checksum() {
    let (base, dir) = adapter();
    let other = Weights::init(&dev(), Weights::load(&dev(), base.path()).unwrap().config.clone(), 5).unwrap();
    other.save(&dev(), base.path()).unwrap();
    adapter_refused(dir.path(), &["adapter_model.safetensors", "was trained over a base", "checksum"]);
    let wider = ModelConfig { hidden_size: 24, ..other.config.clone() };
    Weights::init(&dev(), wider, 4).unwrap().save(&dev(), base.path()).unwrap();
    adapter_refused(dir.path(), &[LORA_A, "want [2, 24]", "got F32 [2, 16]", "another base"]);
}

#[test]
fn tensors_of_an_adapter_that_do_not_fit_its_config_are_refused() {
    let (_base, dir) = adapter();
    let at = dir.path();
    edit_json(&at.join("adapter_config.json"), |j| j["r"] = json!(3));
    adapter_refused(at, &[LORA_A, "want [3, 16] (r is 3", "got F32 [2, 16]"]);
    edit_json(&at.join("adapter_config.json"), |j| j["r"] = json!(2));
    let (_base, dir) = adapter();
    edit_adapter(dir.path(), |all| drop(all.remove(LORA_A)));
    adapter_refused(dir.path(), &[LORA_A, "no such tensor in the file"]);
    let (_base, dir) = adapter();
    let extra = LORA_A.replace("layers.0", "layers.7");
    edit_adapter(dir.path(), |all| drop(all.insert(extra.clone(), all[LORA_A].clone())));
    adapter_refused(dir.path(), &[&extra, "no such tensor", "1 layers of the base"]);
    let (_base, dir) = adapter();
    edit_adapter(dir.path(), |all| all.get_mut(LORA_A).unwrap().2[0..4].copy_from_slice(&f32::NAN.to_le_bytes()));
    adapter_refused(dir.path(), &[LORA_A, "want finite values"]);
    fs::remove_file(dir.path().join("adapter_model.safetensors")).unwrap();
    adapter_refused(dir.path(), &["adapter_model.safetensors", "no such file"]);
}

#[test]
fn what_an_adapter_asks_for_and_is_not_computed_is_refused_by_name() {
    let (base, dir) = adapter();
    let config = dir.path().join("adapter_config.json");
    for (key, value) in [
        ("use_dora", json!(true)),
        ("bias", json!("lora_only")),
        ("layers_to_transform", json!([0])),
        ("rank_pattern", json!({ "q_proj": 8 })),
        ("modules_to_save", json!(["lm_head"])),
        ("fan_in_fan_out", json!(true)),
        ("target_modules", json!(["lm_head"])),
        ("peft_type", json!("PREFIX_TUNING")),
    ] {
        let whole = fs::read(&config).unwrap();
        edit_json(&config, |j| drop(j.insert(key.into(), value)));
        adapter_refused(dir.path(), &["adapter_config.json", key]);
        fs::write(&config, whole).unwrap();
    }
    edit_json(&config, |j| j["base_model_name_or_path"] = Value::Null);
    adapter_refused(dir.path(), &["names no base", "model.adapter_base=DIR"]);
    edit_json(&config, |j| j["base_model_name_or_path"] = json!(dir.path().to_str().unwrap()));
    adapter_refused(dir.path(), &["is an adapter itself", "haggle merge"]);
    drop(base);
}

#[test]
fn an_adapter_of_experts_matrices_is_refused() {
    let goldens = Path::new("tests/goldens");
    let (base, dir) = (Weights::load(&dev(), &goldens.join("moe")).unwrap().shared(), TempDir::new().unwrap());
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        fs::copy(goldens.join("lora_moe").join(file), dir.path().join(file)).unwrap();
    }
    edit_json(&dir.path().join("adapter_config.json"), |j| j["target_modules"] = json!(["q_proj", "up_proj"]));
    let said = Weights::load_adapter(&dev(), &base, dir.path()).err().expect("must be refused").to_string();
    for part in ["adapter_config.json", "experts' matrices (up_proj)", "q_proj, k_proj, v_proj, o_proj"] {
        assert!(said.contains(part), "want `{part}` in: {said}");
    }
}
