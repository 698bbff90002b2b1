//! The kernels for the `emu` device: every `kernels/**/*.cu`, compiled by the host's C++ compiler.
//!
//! Each file becomes one wrapper that includes it and lists its entries; a table over all wrappers is what
//! `src/device/gpu/emu.rs` asks for kernels by name. Objects are kept by the hash of what they are made of, so only what
//! changed is compiled, on all cores. Without a C++ compiler the library builds, and the device says so when asked for.

use std::collections::hash_map::DefaultHasher;
use std::fmt::Write as _;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Sources of the emulator itself.
const RUNTIME: [&str; 13] = [
    "fiber",
    "runtime",
    "cluster",
    "shared",
    "warp",
    "mma",
    "tensor",
    "check",
    "count",
    "dependent",
    "mbarrier",
    "tma",
    "wgmma",
];

/// What makes a kernel a checked one, see kernels/emu/check.h.
const CHECKED: &str = "-DHAGGLE_EMU_CHECKED -fsanitize=thread -fsanitize=undefined -fno-sanitize=vptr";

/// What makes a kernel a counted one, see kernels/emu/count.h: vectors are moved whole, and none are made that are not there.
const COUNTED: &str = "-DHAGGLE_EMU_COUNTED -fsanitize=thread -fno-tree-sra -fno-ipa-sra -fno-store-merging \
                       -fno-tree-vectorize -fno-tree-slp-vectorize";

/// One call of the compiler.
struct Unit {
    source: PathBuf,
    object: PathBuf,
    options: &'static str,
    /// What the object is made of.
    hash: u64,
}

/// Compiles everything into `libhaggle_emu.a` and sets `cfg(haggle_emu)`.
pub fn build() {
    println!("cargo:rustc-check-cfg=cfg(haggle_emu, haggle_emu_avx2)");
    println!("cargo:rerun-if-changed=kernels");
    println!("cargo:rerun-if-changed=build");
    println!("cargo:rerun-if-env-changed=HAGGLE_EMU_FLAGS");
    println!("cargo:rerun-if-env-changed=HAGGLE_EMU_CHECK");
    println!("cargo:rerun-if-env-changed=HAGGLE_EMU_COUNT");
    let root = PathBuf::from(var("CARGO_MANIFEST_DIR"));
    let out = PathBuf::from(var("OUT_DIR")).join("emu");
    fs::create_dir_all(out.join("objects")).expect("the build folder can be written");
    let Some(compiler) = compiler(&root, &out) else {
        println!("cargo:warning=no C++ compiler: the emu device is left out");
        return;
    };
    let kernels = root.join("kernels");
    let mut units: Vec<Unit> = Vec::new();
    let shared = rewrite_headers(&kernels, &out);
    for name in RUNTIME {
        let source = kernels.join("emu").join(format!("{name}.cpp"));
        units.push(unit(&out, &format!("runtime_{name}"), source.clone(), "", &[&read(&source), &shared]));
    }
    let checked = asked("HAGGLE_EMU_CHECK").unwrap_or(false);
    // Builds for development and tests count, unless it is their accesses that are checked.
    let counted = asked("HAGGLE_EMU_COUNT").unwrap_or(var("PROFILE") == "debug" && !checked);
    let flavours = [("checked", CHECKED, checked), ("counted", COUNTED, counted)];
    let mut entries = Vec::new();
    for file in files(&kernels, "cu") {
        let text = read(&kernels.join(&file));
        let names = entry_names(&text);
        let (wrapper, stem) =
            (wrapper(&file, &names, &text), file.with_extension("").display().to_string().replace('/', "_"));
        let source = out.join(format!("{stem}.cpp"));
        let text = rewrite(&kernels.join(&file), &text);
        write_if_changed(&out.join(&file), &text);
        write_if_changed(&source, &wrapper);
        let made_of = [text.as_str(), &wrapper, &shared];
        units.push(unit(&out, &stem, source.clone(), "", &made_of));
        entries.extend(names.iter().map(|n| format!("haggle_emu_entry_{n}")));
        for (flavour, options, for_all) in flavours {
            if for_all || file.starts_with("emu/planted") {
                units.push(unit(&out, &format!("{stem}_{flavour}"), source.clone(), options, &made_of));
                entries.extend(names.iter().map(|n| format!("haggle_emu_{flavour}_{n}")));
            }
        }
    }
    let table = table(&entries);
    write_if_changed(&out.join("table.cpp"), &table);
    units.push(unit(&out, "table", out.join("table.cpp"), "", &[&table, &shared]));
    compile(&compiler, &units);
    let mut archive = cc::Build::new();
    archive.objects(units.iter().map(|u| &u.object)).compile("haggle_emu");
    println!("cargo:rustc-cfg=haggle_emu");
}

/// What the user wants of a kind of kernels, where they say: 1 is yes.
fn asked(name: &str) -> Option<bool> {
    std::env::var(name).ok().map(|v| v == "1")
}

pub fn var(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"))
}

pub fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The compiler and its options, if there is one that works. Targets what this machine has of fused multiply-add: a
/// call of the C library for each would be ten times slower, with the same bits.
fn compiler(root: &Path, out: &Path) -> Option<Vec<String>> {
    if std::env::var("CARGO_CFG_TARGET_FAMILY").as_deref() != Ok("unix") {
        return None;
    }
    let tool = cc::Build::new().cpp(true).warnings(false).try_get_compiler().ok()?;
    let mut command = vec![tool.path().display().to_string()];
    let options = "-std=gnu++17 -O2 -g1 -fPIC -ftls-model=initial-exec -ffp-contract=off -fno-math-errno -fno-exceptions \
                   -fno-rtti -fno-threadsafe-statics -Wall -Wno-psabi -Wno-unknown-pragmas -Wno-unused-function \
                   -DHAGGLE_EMU";
    command.extend(options.split_whitespace().map(str::to_string));
    if host_has_fma() && var("HOST") == var("TARGET") {
        command.extend(["-mavx2", "-mfma", "-mf16c"].map(str::to_string));
        println!("cargo:rustc-cfg=haggle_emu_avx2");
    }
    command.extend(std::env::var("HAGGLE_EMU_FLAGS").unwrap_or_default().split_whitespace().map(str::to_string));
    command.extend([format!("-I{}", out.display()), format!("-I{}", root.join("kernels").display())]);
    let probe = out.join("probe.cpp");
    write_if_changed(&probe, "#include <stdint.h>\nint probe() { return 1; }\n");
    let object = out.join("probe.o");
    let works = Command::new(&command[0]).args(&command[1..]).arg("-c").arg(&probe).arg("-o").arg(&object).output();
    works.is_ok_and(|o| o.status.success()).then_some(command)
}

#[cfg(target_arch = "x86_64")]
fn host_has_fma() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}

#[cfg(not(target_arch = "x86_64"))]
fn host_has_fma() -> bool {
    false
}

/// Files of one extension under `kernels`, relative to it, sorted.
pub fn files(kernels: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![kernels.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for path in entries.filter_map(|e| e.ok()).map(|e| e.path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == extension) {
                found.push(path.strip_prefix(kernels).expect("found under it").to_path_buf());
            }
        }
    }
    found.sort();
    found
}

/// Copies the shared headers with their `__shared__` declarations rewritten; returns all that kernels may include.
fn rewrite_headers(kernels: &Path, out: &Path) -> String {
    let mut all = String::new();
    for file in files(kernels, "cuh") {
        let text = rewrite(&kernels.join(&file), &read(&kernels.join(&file)));
        write_if_changed(&out.join(&file), &text);
        all += &text;
    }
    for file in files(kernels, "h") {
        all += &read(&kernels.join(&file));
    }
    all
}

/// Names of the `extern "C" __global__` functions of a file.
pub fn entry_names(text: &str) -> Vec<String> {
    let text = without_comments(text);
    let mut names = Vec::new();
    for (at, marker) in text.match_indices("__global__") {
        if !text[..at].trim_end().ends_with("\"C\"") {
            continue;
        }
        // `void`, perhaps __launch_bounds__(...) and CLUSTER(...), the name, its parameters.
        let rest = text[at + marker.len()..].trim_start();
        let mut rest = rest.strip_prefix("void").expect("a kernel returns void").trim_start();
        while let Some(attribute) = ["__launch_bounds__", "CLUSTER"].iter().find_map(|word| rest.strip_prefix(word)) {
            rest = attribute[attribute.find(')').expect("an attribute's (...)") + 1..].trim_start();
        }
        let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        names.push(name);
    }
    names
}

/// Which parameters of a kernel are `__restrict__`, a bit each: what they point to the compiler takes for constant, where the
/// kernel does not write it, from its first instruction on. And how many blocks run together: its `CLUSTER(n)`.
fn restricted_and_cluster(text: &str, kernel: &str) -> (u32, u32) {
    let text = without_comments(text);
    let found = text.match_indices("__global__").find_map(|(at, _)| {
        let (head, parameters) = text[at..].split_once(&format!(" {kernel}("))?;
        (!head.contains('{')).then_some((head, parameters))
    });
    let (head, parameters) = found.unwrap_or_else(|| panic!("the parameters of {kernel} are not found"));
    let parameters = &parameters[..parameters.find(')').expect("parameters end")];
    let bits = split_commas(parameters).into_iter().enumerate();
    let restricted = bits.map(|(i, parameter)| u32::from(parameter.contains("__restrict__")) << i).sum();
    let cluster = head.split_once("CLUSTER(").and_then(|(_, n)| n.split(')').next()?.trim().parse().ok()).unwrap_or(1);
    (restricted, cluster)
}

/// The text with comments blanked, every other character where it was.
fn without_comments(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('/') {
        out += &rest[..at];
        rest = &rest[at..];
        let end = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |e| e + 2)
        } else {
            out.push('/');
            rest = &rest[1..];
            continue;
        };
        out.extend(rest[..end].bytes().map(|b| if b == b'\n' { '\n' } else { ' ' }));
        rest = &rest[end..];
    }
    out + rest
}

/// The file with each static `__shared__ T name[dims];` as `HAGGLE_SHARED(T, name, [dims])`, which puts the array into
/// the block's arena, between guards; kernels become local to their file. Lines keep their numbers.
fn rewrite(path: &Path, text: &str) -> String {
    let bare = without_comments(text);
    let short = path.display().to_string();
    let short = &short[short.rfind("kernels/").unwrap_or(0)..];
    let mut out = format!("#line 1 \"{short}\"\n");
    let mut done = 0;
    for (at, marker) in bare.match_indices("__shared__") {
        let line_start = bare[..at].rfind('\n').map_or(0, |i| i + 1);
        let before = bare[..at].trim_end();
        if before.ends_with("extern") || bare[line_start..at].trim_start().starts_with('#') {
            continue;
        }
        let start = at + marker.len();
        let end = start + bare[start..].find(';').unwrap_or_else(|| panic!("{short}: `__shared__` without `;`"));
        let Some(calls) = shared_calls(&bare[start..end]) else {
            panic!("{short}: cannot read `__shared__{};`: write one `__shared__ T name[n];`", &bare[start..end]);
        };
        out += &text[done..at];
        out += &calls;
        out.extend(bare[at..end].matches('\n'));
        done = end;
    }
    out += &text[done..];
    // gcc gives `extern "C"` external linkage in an unnamed namespace too.
    out.replace("extern \"C\" __global__", "static __global__")
}

/// ` float a[2], b` as `HAGGLE_SHARED(float, a, [2]); HAGGLE_SHARED(float, b, )`.
fn shared_calls(declaration: &str) -> Option<String> {
    let mut words = declaration.trim();
    for attribute in ["alignas(", "__align__("] {
        if let Some(rest) = words.strip_prefix(attribute) {
            words = rest[rest.find(')')? + 1..].trim();
        }
    }
    // The first name stands before the first `[`, or at the end; what is before it is the type.
    let head = &words[..words.find(['[', ',']).unwrap_or(words.len())].trim_end();
    let name_at = head.rfind(|c: char| !(c.is_alphanumeric() || c == '_'))? + 1;
    let (kind, names) = (words[..name_at].trim(), &words[name_at..]);
    let mut calls = Vec::new();
    for name in split_commas(names) {
        let dims = name.find('[').unwrap_or(name.len());
        let (name, dims) = (name[..dims].trim(), name[dims..].trim());
        let plain = !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_');
        if !plain || kind.is_empty() || !(dims.is_empty() || dims.ends_with(']')) {
            return None;
        }
        calls.push(format!("HAGGLE_SHARED(HAGGLE_TYPE({kind}), {name}, HAGGLE_TYPE({dims}))"));
    }
    Some(calls.join("; "))
}

/// Parts between commas that stand in no bracket.
fn split_commas(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0, 0, Vec::new());
    for (i, c) in text.char_indices() {
        match c {
            '[' | '(' | '<' => depth += 1,
            ']' | ')' | '>' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

/// Everything of one kernel file has internal linkage: files may use the same names.
fn wrapper(file: &Path, names: &[String], source: &str) -> String {
    let mut text = format!("#include \"emu/emu.h\"\nnamespace {{\n#include \"{}\"\n}}\n", file.display());
    for name in names {
        let (restricted, cluster) = restricted_and_cluster(source, name);
        let _ = writeln!(text, "HAGGLE_EMU_ENTRY({name}, {restricted:#x}u, {cluster}u)");
    }
    text
}

fn table(symbols: &[String]) -> String {
    let mut text = String::from("#include \"emu/runtime.h\"\n");
    symbols.iter().for_each(|s| writeln!(text, "extern const ::emu::Entry {s};").unwrap_or_default());
    text += "extern \"C\" const ::emu::Entry* const haggle_emu_table[] = {\n";
    symbols.iter().for_each(|s| writeln!(text, "    &{s},").unwrap_or_default());
    text + "    nullptr};\n"
}

pub fn write_if_changed(path: &Path, text: &str) {
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return;
    }
    let folder = path.parent().expect("a file is in a folder");
    fs::create_dir_all(folder)
        .and_then(|()| fs::write(path, text))
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

fn unit(out: &Path, name: &str, source: PathBuf, options: &'static str, made_of: &[&str]) -> Unit {
    let mut hasher = DefaultHasher::new();
    (options, made_of).hash(&mut hasher);
    Unit { source, object: out.join("objects").join(format!("{name}.o")), options, hash: hasher.finish() }
}

/// Compiles what changed, on as many cores as cargo grants.
fn compile(compiler: &[String], units: &[Unit]) {
    let jobs = std::env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(1usize);
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..jobs.min(units.len()) {
            scope.spawn(|| {
                while let Some(unit) = units.get(next.fetch_add(1, Ordering::Relaxed)) {
                    compile_one(compiler, unit);
                }
            });
        }
    });
}

fn compile_one(compiler: &[String], unit: &Unit) {
    let stamp = format!("{:x} {}", unit.hash, compiler.join(" "));
    let stamp_path = unit.object.with_extension("stamp");
    if unit.object.exists() && fs::read_to_string(&stamp_path).is_ok_and(|old| old == stamp) {
        return;
    }
    let mut command = Command::new(&compiler[0]);
    command
        .args(&compiler[1..])
        .args(unit.options.split_whitespace())
        .arg("-c")
        .arg(&unit.source)
        .arg("-o")
        .arg(&unit.object);
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let messages = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        eprintln!("{command:?}\n{messages}");
        std::process::exit(1);
    }
    messages.lines().filter(|l| l.contains("warning:")).for_each(|l| println!("cargo:warning={l}"));
    write_if_changed(&stamp_path, &stamp);
}
