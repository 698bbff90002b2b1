//! What tests of ranks share.

#![allow(clippy::unwrap_used, dead_code)]

use safetensors::SafeTensors;
use std::fs;
use std::path::{Path, PathBuf};

/// The files of a checkpoint that hold moments, in the order of their ranks.
pub fn moment_files(checkpoint: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(checkpoint.join("haggle")).unwrap().map(|entry| entry.unwrap().path());
    let is_one = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with("optimizer");
    let mut files: Vec<PathBuf> = entries.filter(is_one).collect();
    files.sort();
    assert!(!files.is_empty(), "{} holds no moments", checkpoint.display());
    files
}

/// Both moments of every parameter of a checkpoint, whoever wrote them.
pub fn moments(checkpoint: &Path) -> Vec<(String, Vec<u8>)> {
    let files: Vec<Vec<u8>> = moment_files(checkpoint).iter().map(|path| fs::read(path).unwrap()).collect();
    let of = |name: &str| -> Vec<u8> {
        files
            .iter()
            .flat_map(|bytes| SafeTensors::deserialize(bytes).unwrap().tensor(name).unwrap().data().to_vec())
            .collect()
    };
    ["m", "v"].map(|name| (format!("moments {name}"), of(name))).into()
}
