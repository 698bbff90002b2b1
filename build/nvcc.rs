//! The kernels for GPUs: every `kernels/**/*.cu`, compiled by nvcc into one fatbin a file.
//!
//! Each fatbin holds machine code for sm_80 and sm_90a and PTX for newer chips; `nvcc_kernels.rs` in `OUT_DIR` lists
//! them with the kernels in each, embedded. Fatbins are kept by the hash of what they are made of, so only what changed
//! is compiled, on all cores. Without nvcc the list is empty, the library builds, and the device says so when asked for.

use crate::emu::{entry_names, files, read, var, write_if_changed};
use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::fmt::Write as _;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Options of every kernel. No fused multiply-add that is not written, so that the emulator has the same bits.
const OPTIONS: &str = "-std=c++17 -O3 -fmad=false -Werror all-warnings -fatbin \
    -gencode arch=compute_80,code=sm_80 -gencode arch=compute_90a,code=sm_90a -gencode arch=compute_90,code=compute_90";

/// One file of kernels.
struct Module {
    source: PathBuf,
    fatbin: PathBuf,
    kernels: Vec<String>,
    hash: u64,
}

/// Compiles everything and writes `nvcc_kernels.rs`.
pub fn build() {
    println!("cargo:rerun-if-env-changed=NVCC");
    println!("cargo:rerun-if-env-changed=CUDA_HOME");
    println!("cargo:rerun-if-env-changed=HAGGLE_WATCHDOG");
    let root = PathBuf::from(var("CARGO_MANIFEST_DIR"));
    let out = PathBuf::from(var("OUT_DIR"));
    let codes = OPTIONS.split_whitespace().filter_map(|word| word.split_once("code=")).map(|(_, code)| code);
    println!("cargo:rustc-env=HAGGLE_CUDA_TARGETS={}", codes.collect::<Vec<_>>().join(" "));
    let mut modules = Vec::new();
    if let Some(nvcc) = find(&root, &out) {
        println!("cargo:rerun-if-changed={}", nvcc.display());
        modules = list(&root.join("kernels"), &out.join("nvcc"));
        compile(&nvcc, &root, &modules);
    }
    write_if_changed(&out.join("nvcc_kernels.rs"), &table(&root, &modules));
}

/// nvcc from `NVCC`, `CUDA_HOME`, the folder of `tools/install-nvcc`, or `PATH`.
fn find(root: &Path, out: &Path) -> Option<PathBuf> {
    if let Some(nvcc) = std::env::var_os("NVCC").map(PathBuf::from) {
        assert!(nvcc.is_file(), "NVCC names {}, which is no file", nvcc.display());
        return Some(nvcc);
    }
    let home = std::env::var_os("CUDA_HOME").map(|home| PathBuf::from(home).join("bin/nvcc"));
    let installed = |target: &Path| target.join("nvcc/nvidia/cu13/bin/nvcc");
    let targets = out.ancestors().skip(1).take(5).map(installed).chain([installed(&root.join("target"))]);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).map(|folder| folder.join("nvcc")).collect::<Vec<_>>();
    home.into_iter().chain(targets).chain(in_path).find(|nvcc| nvcc.is_file())
}

/// Every kernel file but the emulator's own.
fn list(kernels: &Path, out: &Path) -> Vec<Module> {
    let module = |file: PathBuf| {
        let mut made_of = BTreeMap::new();
        collect(kernels, &file, &mut made_of);
        let text = made_of[&file].clone();
        let mut hasher = DefaultHasher::new();
        made_of.hash(&mut hasher);
        let fatbin = out.join(file.with_extension("fatbin"));
        Module { source: kernels.join(file), fatbin, kernels: entry_names(&text), hash: hasher.finish() }
    };
    files(kernels, "cu").into_iter().filter(|file| !file.starts_with("emu")).map(module).collect()
}

/// The text of a file and of all of ours that it includes.
fn collect(kernels: &Path, file: &Path, found: &mut BTreeMap<PathBuf, String>) {
    if found.contains_key(file) || !kernels.join(file).is_file() {
        return;
    }
    let text = read(&kernels.join(file));
    found.insert(file.to_path_buf(), text.clone());
    let names = text.lines().filter_map(|line| line.strip_prefix("#include \"")?.split('"').next());
    names.for_each(|name| collect(kernels, Path::new(name), found));
}

/// Compiles what changed, on as many cores as cargo grants; ends the build when a file fails.
fn compile(nvcc: &Path, root: &Path, modules: &[Module]) {
    let jobs = std::env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(1usize);
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..jobs.min(modules.len()) {
            scope.spawn(|| {
                while let Some(module) = modules.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if !compile_one(nvcc, root, module) {
                        failed.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    if failed.into_inner() {
        std::process::exit(1);
    }
}

fn compile_one(nvcc: &Path, root: &Path, module: &Module) -> bool {
    // Waits that end: see kernels/common/ptx_sm90.cuh.
    let watched = std::env::var("HAGGLE_WATCHDOG").is_ok_and(|v| v == "1");
    let options = format!("{OPTIONS}{}", if watched { " -DHAGGLE_WATCHDOG" } else { "" });
    let stamp = format!("{:x} {} {options}", module.hash, nvcc.display());
    let stamp_path = module.fatbin.with_extension("stamp");
    if module.fatbin.is_file() && fs::read_to_string(&stamp_path).is_ok_and(|old| old == stamp) {
        return true;
    }
    let folder = module.fatbin.parent().expect("a file is in a folder");
    fs::create_dir_all(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut command = Command::new(nvcc);
    command.args(options.split_whitespace()).arg("-I").arg(root.join("kernels"));
    command.arg("-o").arg(&module.fatbin).arg(&module.source);
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    if output.status.success() {
        write_if_changed(&stamp_path, &stamp);
    } else {
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        eprintln!("nvcc failed:\n{command:?}\n{out}{err}");
    }
    output.status.success()
}

/// The list as Rust: file, kernels, fatbin of each module.
fn table(root: &Path, modules: &[Module]) -> String {
    let mut text = String::from("&[\n");
    for Module { source, fatbin, kernels, .. } in modules {
        let file = source.strip_prefix(root).unwrap_or(source);
        let _ = writeln!(text, "    Module {{ file: {file:?}, kernels: &{kernels:?}, fatbin: image!({fatbin:?}) }},");
    }
    text + "]\n"
}
