//! Model folders: what is saved loads back to the bit, and whatever is wrong with one is named.

use haggle::Error;
use haggle::device::Device;
use haggle::disk::write_atomic;
use haggle::model::{ModelConfig, Weights};
use safetensors::tensor::{Dtype, TensorView};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

fn dev() -> Device {
    Device::open("cpu", 1).unwrap()
}

fn config(tied: bool) -> ModelConfig {
    let mut c = ModelConfig::tiny(13);
    (c.hidden_size, c.num_hidden_layers, c.head_dim, c.intermediate_size) = (8, 1, 2, 5);
    c.tie_word_embeddings = tied;
    c
}

fn saved(tied: bool) -> (TempDir, Weights) {
    let dir = TempDir::new().unwrap();
    let w = Weights::init(&dev(), config(tied), 4).unwrap();
    w.save(&dev(), dir.path()).unwrap();
    (dir, w)
}

fn data(w: &Weights) -> Vec<u32> {
    dev().to_vec::<f32>(w.data()).iter().map(|x| x.to_bits()).collect()
}

fn tensors(dir: &Path) -> Tensors {
    let bytes = fs::read(dir.join("model.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    file.iter().map(|(n, t)| (n.into(), (t.dtype(), t.shape().to_vec(), t.data().to_vec()))).collect()
}

fn write(path: &Path, tensors: &Tensors) {
    let views = tensors.iter().map(|(n, (d, s, b))| (n, TensorView::new(*d, s.clone(), b).unwrap()));
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// What loading says after the tensors of a saved model were edited.
fn complaint(tied: bool, edit: impl FnOnce(&mut Tensors)) -> String {
    let (dir, _) = saved(tied);
    let mut all = tensors(dir.path());
    edit(&mut all);
    write(&dir.path().join("model.safetensors"), &all);
    let error = Weights::load(&dev(), dir.path()).err().expect("must not load");
    assert_eq!(error.exit_code(), 3);
    let error = error.to_string();
    let said = error.strip_prefix(&format!("{}", dir.path().display())).expect("names the folder");
    said.trim_start_matches("/model.safetensors").trim_start_matches(": ").into()
}

#[test]
fn a_model_saved_loads_back_to_the_bit() {
    for tied in [true, false] {
        let (dir, w) = saved(tied);
        let loaded = Weights::load(&dev(), dir.path()).unwrap();
        assert_eq!(loaded.config, w.config);
        assert_eq!(data(&loaded), data(&w));
        let first = fs::read(dir.path().join("model.safetensors")).unwrap();
        loaded.save(&dev(), dir.path()).unwrap();
        assert_eq!(fs::read(dir.path().join("model.safetensors")).unwrap(), first);
        let config = fs::read_to_string(dir.path().join("config.json")).unwrap();
        let embedded = Weights::from_bytes(&dev(), "embedded", &config, &first).unwrap();
        assert_eq!(data(&embedded), data(&w));
        assert!(!dir.path().join(".unfinished-model.safetensors").exists());
        assert!(dir.path().join("generation_config.json").exists());
    }
}

#[test]
fn half_floats_are_widened() {
    for (dtype, to) in [
        (Dtype::BF16, (|x| half::bf16::from_f32(x).to_le_bytes()) as fn(f32) -> [u8; 2]),
        (Dtype::F16, |x| half::f16::from_f32(x).to_le_bytes()),
    ] {
        let (dir, w) = saved(true);
        let mut all = tensors(dir.path());
        for (d, _, bytes) in all.values_mut() {
            *d = dtype;
            *bytes = bytes.as_chunks::<4>().0.iter().flat_map(|b| to(f32::from_le_bytes(*b))).collect();
        }
        write(&dir.path().join("model.safetensors"), &all);
        let loaded = Weights::load(&dev(), dir.path()).unwrap();
        let close = |a: &u32, b: &u32| (f32::from_bits(*a) - f32::from_bits(*b)).abs() <= 4e-3;
        assert!(data(&loaded).iter().zip(&data(&w)).all(|(a, b)| close(a, b)));
        assert_ne!(data(&loaded), data(&w));
    }
}

#[test]
fn shards_load_like_one_file() {
    let (dir, w) = saved(false);
    let all = tensors(dir.path());
    let (mut first, mut second, mut map) = (Tensors::new(), Tensors::new(), serde_json::Map::new());
    for (i, (name, tensor)) in all.into_iter().enumerate() {
        let (file, shard) = if i % 2 == 0 { ("a.safetensors", &mut first) } else { ("b.safetensors", &mut second) };
        map.insert(name.clone(), file.into());
        shard.insert(name, tensor);
    }
    fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    write(&dir.path().join("a.safetensors"), &first);
    write(&dir.path().join("b.safetensors"), &second);
    let index = dir.path().join("model.safetensors.index.json");
    fs::write(&index, serde_json::json!({ "weight_map": map }).to_string()).unwrap();
    assert_eq!(data(&Weights::load(&dev(), dir.path()).unwrap()), data(&w));

    let says = || Weights::load(&dev(), dir.path()).err().unwrap().to_string();
    let name = first.keys().next().unwrap().clone();
    second.insert(name.clone(), first[&name].clone());
    write(&dir.path().join("b.safetensors"), &second);
    assert!(says().contains("places in a.safetensors") && says().contains(&name), "{}", says());
    fs::remove_file(dir.path().join("b.safetensors")).unwrap();
    assert!(says().contains("b.safetensors"), "{}", says());
    fs::write(&index, "{\"weight_map\": {\"x\": \"../../etc/passwd\"}}").unwrap();
    assert!(says().contains("is no file name"), "{}", says());
    fs::write(&index, "{}").unwrap();
    assert!(says().contains("weight_map"), "{}", says());
}

#[test]
fn a_wrong_tensor_is_named() {
    let norm = "model.norm.weight";
    let said = complaint(true, |t| drop(t.remove(norm)));
    assert_eq!(said, "weight `model.norm.weight`: want [8], got no such tensor in the file");
    let said = complaint(true, |t| t.get_mut(norm).unwrap().1 = vec![2, 4]);
    assert_eq!(said, "weight `model.norm.weight`: want [8], got F32 [2, 4]");
    let said = complaint(true, |t| {
        let tensor = t.remove(norm).unwrap();
        t.insert("model.final_norm.weight".into(), tensor);
    });
    assert!(said.contains("model.norm.weight"), "{said}");
    let said = complaint(true, |t| {
        let tensor = t[norm].clone();
        t.insert("model.layers.1.mlp.extra".into(), tensor);
    });
    assert!(said.contains("model.layers.1.mlp.extra") && said.contains("no such tensor in this arch"), "{said}");
    let said = complaint(true, |t| t.get_mut(norm).unwrap().0 = Dtype::I32);
    assert!(said.contains("want F32, BF16 or F16, got I32"), "{said}");
    let nan = |t: &mut Tensors| t.get_mut(norm).unwrap().2[8..12].copy_from_slice(&f32::NAN.to_le_bytes());
    assert_eq!(complaint(true, nan), "weight `model.norm.weight`: want finite values, got NaN at element 2");
}

#[test]
fn a_tied_head_is_absent_or_the_embedding() {
    let (dir, w) = saved(true);
    let mut all = tensors(dir.path());
    all.insert("lm_head.weight".into(), all["model.embed_tokens.weight"].clone());
    write(&dir.path().join("model.safetensors"), &all);
    assert_eq!(data(&Weights::load(&dev(), dir.path()).unwrap()), data(&w));
    let said = complaint(true, |t| {
        let mut head = t["model.embed_tokens.weight"].clone();
        head.2[0] ^= 1;
        t.insert("lm_head.weight".into(), head);
    });
    assert!(said.contains("lm_head.weight") && said.contains("tie_word_embeddings is true"), "{said}");
    let said = complaint(false, |t| drop(t.remove("lm_head.weight")));
    assert!(said.contains("lm_head.weight") && said.contains("tie_word_embeddings is false"), "{said}");
}

#[test]
fn a_damaged_file_is_named_wherever_it_is_cut() {
    let (dir, _) = saved(true);
    let path = dir.path().join("model.safetensors");
    let whole = fs::read(&path).unwrap();
    for len in [0, 4, 8, 100, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..len]).unwrap();
        let error = Weights::load(&dev(), dir.path()).err().unwrap();
        assert!(matches!(error, Error::Data { .. } | Error::Io { .. }), "{len}: {error}");
        assert!(error.to_string().contains("model.safetensors"), "{len}: {error}");
    }
    for garbage in [vec![0xFF; 64], [whole.clone(), vec![0; 9]].concat(), b"{\"not\": \"safetensors\"}".to_vec()] {
        fs::write(&path, &garbage).unwrap();
        let said = Weights::load(&dev(), dir.path()).err().unwrap().to_string();
        assert!(said.contains("truncated or corrupted"), "{said}");
    }
}

#[test]
fn a_folder_without_a_model_is_named() {
    let empty = TempDir::new().unwrap();
    let says = || Weights::load(&dev(), empty.path()).err().unwrap().to_string();
    assert!(says().contains("config.json"), "{}", says());
    fs::write(empty.path().join("config.json"), config(true).to_json()).unwrap();
    assert!(says().ends_with("holds neither model.safetensors nor model.safetensors.index.json"), "{}", says());
    fs::write(empty.path().join("pytorch_model.bin"), "").unwrap();
    assert!(says().ends_with("but pytorch_model.bin; save it as safetensors (transformers: save_pretrained)"));
    fs::write(empty.path().join("config.json"), "{\"architectures\": [\"GPT2LMHeadModel\"]}").unwrap();
    assert!(says().contains("GPT2LMHeadModel") && says().contains("config.json"), "{}", says());
}

#[test]
fn git_lfs_pointers_are_named_with_what_to_do() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1192135096\n";
    for file in ["model.safetensors", "config.json", "tokenizer.json", "model.safetensors.index.json", "a.safetensors"]
    {
        let (dir, _) = saved(true);
        if file.contains("index") || file.starts_with('a') {
            fs::remove_file(dir.path().join("model.safetensors")).unwrap();
            let index = "{\"weight_map\": {\"model.norm.weight\": \"a.safetensors\"}}";
            fs::write(dir.path().join("model.safetensors.index.json"), index).unwrap();
        }
        fs::write(dir.path().join(file), pointer).unwrap();
        let said = Weights::load(&dev(), dir.path()).err().unwrap().to_string();
        let (path, folder) = (dir.path().join(file), dir.path().display());
        let want = format!("{}: a Git LFS pointer, not the file; run `git lfs pull` in {folder}", path.display());
        assert_eq!(said, want);
    }
}

#[test]
fn an_embedding_wider_than_the_tokenizer_knows_where_tokens_end() {
    let (dir, w) = saved(true);
    let end = |tokenizer: &str| {
        fs::write(dir.path().join("tokenizer.json"), tokenizer).unwrap();
        Weights::load(&dev(), dir.path()).map(|w| (w.config.token_end, w.config.sampled_end()))
    };
    assert_eq!((w.config.token_end, w.config.sampled_end()), (None, 13));
    let vocab = r#""model": {"vocab": {"a": 0, "b": 4, "c": 2}}"#;
    assert_eq!(end(&format!("{{{vocab}}}")).unwrap(), (Some(5), 5));
    let added = r#""added_tokens": [{"id": 9, "content": "<x>"}, {"id": 7, "content": "<y>"}]"#;
    assert_eq!(end(&format!("{{{added}, {vocab}}}")).unwrap(), (Some(10), 10));
    assert_eq!(end(r#"{"model": {"vocab": [["a", -1.5], ["b", -2.0]]}}"#).unwrap(), (Some(2), 2));
    assert_eq!(end(r#"{"model": {"vocab": {"a": 99}}}"#).unwrap(), (Some(100), 13));
    for broken in ["{", "{}"] {
        let said = end(broken).unwrap_err().to_string();
        assert!(said.starts_with(&format!("{}: no", dir.path().join("tokenizer.json").display())), "{said}");
    }
}

#[test]
fn a_save_that_fails_leaves_the_old_file_and_no_other() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("model.safetensors");
    write_atomic(&path, |f| f.write_all(b"old")).unwrap();
    let full = |f: &mut dyn std::io::Write| {
        f.write_all(b"new, half")?;
        Err(std::io::Error::from(std::io::ErrorKind::StorageFull))
    };
    let said = write_atomic(&path, full).unwrap_err().to_string();
    assert!(said.contains("cannot write") && said.contains("model.safetensors"), "{said}");
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    assert!(write_atomic(&dir.path().join("absent/x"), |_| Ok(())).is_err());
}
