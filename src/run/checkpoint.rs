//! Checkpoints: a Hugging Face folder, and beside it in `haggle/` all that a run needs to go on bit for bit.
//!
//! ```text
//! step-000010/config.json model.safetensors tokenizer.json ...   what transformers loads
//! step-000010/haggle/state.json             the step, the logs' lengths, a checksum of every file
//! step-000010/haggle/optimizer.safetensors  AdamW's moments; of several ranks a file each: see `moments.rs`
//! step-000010/haggle/config.toml            the resolved config
//! best -> step-000010                       the best on the held-out products, where training looks at them (eval.every)
//! ```
//!
//! The one idea: a checkpoint appears by one rename, after every byte of it is on disk, and only then does `latest` name it.
//! Every rank writes the moments of its shard; the first one writes the rest, and renames once all have written.
//! Noise is counter-based and the order of products a function of the step, so the step is the whole data and RNG cursor.

use super::moments;
use crate::device::Device;
use crate::disk::{UNFINISHED, sync_dir, write_atomic};
use crate::dist::{Packet, Ranks, Unpack};
use crate::error::{Error, Result};
use crate::train::optimizer::Optimizer;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// What the best checkpoint is called, beside those that are named by their steps.
pub const BEST: &str = "best";

/// The best of a run's evaluations during training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Best {
    /// The step it was made at.
    pub step: u64,
    /// The bits of its held-out reward, an f64: a resume compares the very same number.
    pub reward_bits: u64,
}

impl Best {
    /// The better of the best so far and a reward at a step: of equals the earlier one.
    pub fn of(before: Option<Best>, step: u64, reward: f64) -> Best {
        let found = Best { step, reward_bits: reward.to_bits() };
        before.filter(|best| best.reward() >= reward).unwrap_or(found)
    }

    /// Its mean reward on the held-out products.
    pub fn reward(self) -> f64 {
        f64::from_bits(self.reward_bits)
    }
}

/// Where a run stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Version of haggle that wrote it.
    pub haggle: String,
    /// Training steps done: the cursor of data and noise.
    pub step: u64,
    /// Optimizer updates applied.
    pub updates: u64,
    /// Optimizer updates skipped.
    pub skipped: u64,
    /// Optimizer updates skipped in a row.
    pub skipped_in_a_row: u64,
    /// Length of metrics.jsonl.
    pub metrics_bytes: u64,
    /// Length of episodes.jsonl.
    pub episodes_bytes: u64,
    /// CRC-32C of the starting weights, which are the reference too.
    pub base_crc: u32,
    /// CRC-32C of the frozen seller's weights.
    pub seller_crc: u32,
    /// The best evaluation so far; none where training does not evaluate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best: Option<Best>,
    /// CRC-32C of every file of the checkpoint but this one.
    #[serde(default)]
    pub files: BTreeMap<String, u32>,
}

impl State {
    /// The state of a run that has not begun; `crcs` are those of the starting weights and of the seller's.
    pub fn start(crcs: [u32; 2]) -> State {
        State {
            haggle: env!("CARGO_PKG_VERSION").into(),
            step: 0,
            updates: 0,
            skipped: 0,
            skipped_in_a_row: 0,
            metrics_bytes: 0,
            episodes_bytes: 0,
            base_crc: crcs[0],
            seller_crc: crcs[1],
            best: None,
            files: BTreeMap::new(),
        }
    }

    /// Takes over the optimizer's counts.
    pub fn note(&mut self, optimizer: &Optimizer) {
        (self.updates, self.skipped) = (optimizer.step, optimizer.skipped);
        self.skipped_in_a_row = optimizer.skipped_in_a_row;
    }
}

const STATE: &str = "haggle/state.json";
const CONFIG: &str = "haggle/config.toml";

/// Saves a checkpoint under `run/checkpoints`, points `run/latest` to it and names the best one; then removes all but that and
/// the newest `keep`. All ranks of the optimizer do so together.
/// Every rank calls `write_model`, of which the first one's writes the Hugging Face folder into the path it is given.
///
/// # Errors
/// Whatever fails at whichever rank, the checkpoints saved before are still there and `latest` names one of them.
pub fn save(
    run: &Path,
    keep: usize,
    dev: &Device,
    optimizer: &Optimizer,
    state: State,
    config_toml: &str,
    write_model: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let (ranks, all, name) = (&optimizer.ranks, run.join("checkpoints"), name_of(state.step));
    let unfinished = all.join(format!("{UNFINISHED}{name}"));
    let written = write_parts(&unfinished, dev, optimizer).and_then(|parts| {
        let rest = || {
            if !ranks.is_first() {
                return write_model(&unfinished);
            }
            write_rest(&unfinished, parts, state.clone(), config_toml, write_model)?;
            publish(run, &unfinished, &state, keep)
        };
        ranks.agree("the checkpoint", rest())
    });
    if let (Err(_), true) = (&written, ranks.is_first()) {
        let _ = fs::remove_dir_all(&unfinished); // gives the space back
    }
    written.map(|()| all.join(name))
}

/// Makes the folder, and writes every rank's moments into it; returns their files and checksums.
fn write_parts(at: &Path, dev: &Device, optimizer: &Optimizer) -> Result<BTreeMap<String, u32>> {
    let (ranks, own) = (&optimizer.ranks, at.join("haggle"));
    let make = || {
        remove_dir(at)?;
        fs::create_dir_all(&own).map_err(|e| Error::io(&own, format!("cannot make: {e}")))
    };
    ranks.agree("the folder of the checkpoint", if ranks.is_first() { make() } else { Ok(()) })?;
    // A device that was lost says so before anything of it is written.
    let written = dev.wait().and_then(|()| moments::write(at, dev, optimizer));
    let (file, crc) = ranks.agree("the moments of the checkpoint", written)?;
    let mut packet = Packet::new();
    let mut parts = BTreeMap::new();
    for told in ranks.gather("checksums of the moments", &packet.text(&file).put(&[crc]).bytes)? {
        let mut read = Unpack::of(&told);
        let (file, [crc]) = (read.text()?, read.exactly()?);
        parts.insert(file, crc);
    }
    Ok(parts)
}

/// Names a whole checkpoint: by one rename, then by `latest`.
fn publish(run: &Path, unfinished: &Path, state: &State, keep: usize) -> Result<()> {
    let (all, name) = (run.join("checkpoints"), name_of(state.step));
    let target = all.join(&name);
    if target.exists() {
        // Left by a run killed between its rename and `latest`; `latest` names an older one.
        remove_dir(&target)?;
    }
    fs::rename(unfinished, &target).map_err(|e| Error::io(&target, format!("cannot rename: {e}")))?;
    sync_dir(&all)?;
    write_atomic(&run.join("latest"), |f| writeln!(f, "{name}"))?;
    state.best.map_or(Ok(()), |best| name_best(&all, best))?;
    remove_old(&all, keep, state.best)
}

/// The name of the checkpoint of a step.
pub fn name_of(step: u64) -> String {
    format!("step-{step:06}")
}

/// Points `best` to the best checkpoint, by one rename.
fn name_best(all: &Path, best: Best) -> Result<()> {
    let (link, beside) = (all.join(BEST), all.join(format!("{UNFINISHED}{BEST}")));
    let _ = fs::remove_file(&beside); // left by a kill
    let named = symlink(name_of(best.step), &beside).and_then(|()| fs::rename(&beside, &link));
    named.map_err(|e| Error::io(&link, format!("cannot name the best checkpoint: {e}")))?;
    sync_dir(all)
}

/// Writes all but the moments, and the state that names every file.
fn write_rest(
    at: &Path,
    parts: BTreeMap<String, u32>,
    mut state: State,
    config_toml: &str,
    write_model: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    // Those of the checkpoint it went on from are none of this one's.
    state.files.clear();
    write_model(at)?;
    write_file(&at.join(CONFIG), config_toml.as_bytes())?;
    for file in files_below(at)?.into_iter().filter(|file| !parts.contains_key(file)) {
        let path = at.join(&file);
        let handle = File::open(&path).and_then(|f| f.sync_all());
        handle.map_err(|e| Error::io(&path, format!("cannot write to disk: {e}")))?;
        let crc = crc_of(&path)?;
        state.files.insert(file, crc);
    }
    state.files.extend(parts);
    write_state(at, &state)?;
    sync_dir(at)
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).map_err(|e| Error::io(path, format!("cannot write: {e}")))
}

/// The checkpoint that `run/latest` names; `None` when the run has saved none yet.
pub fn latest(run: &Path) -> Result<Option<PathBuf>> {
    let pointer = run.join("latest");
    match fs::read_to_string(&pointer) {
        Ok(name) => {
            let at = run.join("checkpoints").join(name.trim());
            if at.join(STATE).is_file() {
                Ok(Some(at))
            } else {
                Err(Error::data(&pointer, format!("names `{}`, which is no checkpoint", name.trim())))
            }
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(&pointer, e)),
    }
}

/// Reads a checkpoint's state and checks every file against its checksum.
///
/// # Errors
/// [`Error::Data`] naming the file that is missing or damaged.
pub fn open(at: &Path) -> Result<State> {
    open_dealt(at, &Ranks::alone())
}

/// The same by several ranks, each of which checks its share of the files.
///
/// # Errors
/// As [`open`], at the rank that found it: all must agree before they go on.
pub fn open_dealt(at: &Path, ranks: &Ranks) -> Result<State> {
    let state = state(at)?;
    let mut own = state.files.iter().skip(ranks.rank()).step_by(ranks.world());
    own.try_for_each(|(file, crc)| check(at, file, *crc))?;
    Ok(state)
}

/// Reads a checkpoint's state alone.
///
/// # Errors
/// [`Error::Io`], [`Error::Data`] naming the file.
pub fn state(at: &Path) -> Result<State> {
    let path = at.join(STATE);
    let text = fs::read(&path).map_err(|e| Error::io(&path, format!("cannot read the checkpoint: {e}")))?;
    serde_json::from_slice(&text).map_err(|e| Error::data(&path, e))
}

/// Replaces a checkpoint's state, whose own file carries no checksum.
///
/// # Errors
/// As [`write_atomic`].
pub fn write_state(at: &Path, state: &State) -> Result<()> {
    let text = serde_json::to_vec_pretty(state).map_err(|e| Error::data(at, e))?;
    write_atomic(&at.join(STATE), |f| f.write_all(&text))
}

/// Checks what a model is opened from, when its folder carries checksums; the optimizer's moments are none of it.
///
/// # Errors
/// As [`open`].
pub fn check_model(folder: &Path) -> Result<()> {
    if !folder.join(STATE).is_file() {
        return Ok(());
    }
    let files = state(folder)?.files;
    files
        .iter()
        .filter(|(file, _)| moments::writer(file).is_none())
        .try_for_each(|(file, crc)| check(folder, file, *crc))
}

fn check(at: &Path, file: &str, crc: u32) -> Result<()> {
    let path = at.join(file);
    if !path.exists() && moments::writer(file).is_some() {
        return Err(moments::missing(&path, file));
    }
    if crc_of(&path)? == crc {
        return Ok(());
    }
    let what = format!(
        "{}does not match its checksum in haggle/state.json: it was damaged or changed; put it back, name another checkpoint, \
         or point `latest` to one",
        moments::whose(file)
    );
    Err(Error::data(path, what))
}

/// The config a checkpoint was trained with, as TOML text, and the path it stands at.
pub fn config_toml(at: &Path) -> Result<(PathBuf, String)> {
    let path = at.join(CONFIG);
    let text = fs::read_to_string(&path).map_err(|e| Error::io(&path, e))?;
    Ok((path, text))
}

/// Puts a checkpoint's moments and counts back into an optimizer of the same size: of several ranks each takes its shard,
/// whoever wrote it.
///
/// # Errors
/// [`Error::Data`] naming the file whose moments are of another type or number, or missing, and the rank that wrote it.
pub fn restore_optimizer(at: &Path, state: &State, dev: &Device, optimizer: &mut Optimizer) -> Result<()> {
    moments::read(at, state.files.keys(), dev, optimizer)?;
    optimizer.step = state.updates;
    optimizer.skipped = state.skipped;
    optimizer.skipped_in_a_row = state.skipped_in_a_row;
    Ok(())
}

fn crc_of(path: &Path) -> Result<u32> {
    let unreadable = |e| Error::io(path, format!("cannot read: {e}"));
    let (mut file, mut part, mut crc) = (File::open(path).map_err(unreadable)?, vec![0; 1 << 20], 0);
    loop {
        match file.read(&mut part).map_err(unreadable)? {
            0 => return Ok(crc),
            n => crc = crc32c::crc32c_append(crc, &part[..n]),
        }
    }
}

/// Relative paths of all files below a folder, sorted.
fn files_below(at: &Path) -> Result<Vec<String>> {
    let mut files = Vec::new();
    let mut folders = vec![at.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(|e| Error::io(&folder, e))? {
            let path = entry.map_err(|e| Error::io(&folder, e))?.path();
            match path.strip_prefix(at) {
                _ if path.is_dir() => folders.push(path),
                Ok(relative) => files.push(relative.to_string_lossy().into_owned()),
                Err(_) => {}
            }
        }
    }
    files.sort();
    Ok(files)
}

fn remove_dir(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(path, format!("cannot remove: {e}"))),
        _ => Ok(()),
    }
}

/// Removes all but the best and the newest `keep` checkpoints, and what killed saves left. Best effort: a checkpoint too many
/// is no reason to stop a run.
fn remove_old(all: &Path, keep: usize, best: Option<Best>) -> Result<()> {
    let entries = fs::read_dir(all).map_err(|e| Error::io(all, e))?;
    let names: Vec<String> =
        entries.filter_map(|e| e.ok()).map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    let step = |name: &String| name.strip_prefix("step-").and_then(|n| n.parse::<u64>().ok());
    let mut steps: Vec<(u64, &String)> = names.iter().filter_map(|n| step(n).map(|s| (s, n))).collect();
    steps.sort();
    let old = steps.iter().take(steps.len().saturating_sub(keep.max(1)));
    let old = old.filter(|(step, _)| best.is_none_or(|best| best.step != *step)).map(|(_, name)| *name);
    for name in names.iter().filter(|n| n.starts_with(UNFINISHED)).chain(old) {
        let _ = fs::remove_dir_all(all.join(name));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::optimizer::{Hyper, Moments, Part};
    use half::bf16;

    fn optimizer(dev: &Device) -> Optimizer {
        let mut o = Optimizer::new(dev, [Part { range: 0..4, decays: true }], Hyper::default(), 10).unwrap();
        dev.write(o.m.view_mut(), &[1f32, 2.0, 3.0, 4.0]);
        dev.write(o.v.view_mut(), &[5f32, 6.0, 7.0, 8.0]);
        o
    }

    fn state(step: u64) -> State {
        State {
            haggle: "0".into(),
            step,
            updates: step,
            skipped: 1,
            skipped_in_a_row: 0,
            metrics_bytes: 10,
            episodes_bytes: 20,
            base_crc: 1,
            seller_crc: 2,
            best: None,
            files: BTreeMap::new(),
        }
    }

    fn save_step(run: &Path, step: u64, write_model: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let dev = Device::open("cpu", 1)?;
        save(run, 2, &dev, &optimizer(&dev), state(step), "seed = 1\n", write_model)
    }

    fn model(at: &Path) -> Result<()> {
        write_file(&at.join("model.safetensors"), b"weights")
    }

    fn entries(at: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(at).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_is_saved_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(latest(dir.path()).unwrap(), None);
        save_step(dir.path(), 3, model).unwrap();
        let at = latest(dir.path()).unwrap().unwrap();
        let back = open(&at).unwrap();
        assert_eq!(State { files: BTreeMap::new(), ..back.clone() }, state(3));
        assert_eq!(config_toml(&at).unwrap().1, "seed = 1\n");
        let dev = Device::open("cpu", 1).unwrap();
        let mut fresh = Optimizer::new(&dev, [Part { range: 0..4, decays: true }], Hyper::default(), 10).unwrap();
        restore_optimizer(&at, &back, &dev, &mut fresh).unwrap();
        assert_eq!(dev.to_vec::<f32>(fresh.m.view()), [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(dev.to_vec::<f32>(fresh.v.view()), [5.0, 6.0, 7.0, 8.0]);
        assert_eq!((fresh.step, fresh.skipped), (3, 1));
        let mut other = Optimizer::new(&dev, [Part { range: 0..5, decays: true }], Hyper::default(), 10).unwrap();
        let message = restore_optimizer(&at, &back, &dev, &mut other).unwrap_err().to_string();
        assert!(message.contains("the moments of 4 parameters are here, the model has 5"), "{message}");
    }

    #[test]
    fn moments_in_bf16_come_back_and_go_on_to_the_bit_and_are_refused_where_f32_is_held() {
        let (dir, dev) = (tempfile::tempdir().unwrap(), Device::open("cpu", 1).unwrap());
        let hyper = Hyper { moments: Moments::Bf16, ..Hyper::default() };
        let fresh = |hyper| Optimizer::new(&dev, [Part { range: 0..99, decays: true }], hyper, 10).unwrap();
        let g: Vec<f32> = (0..99).map(|i| (i as f32 * 0.37).sin()).collect();
        let (g, mut w) = (dev.upload(&g).unwrap(), dev.upload(&[0.5f32; 99]).unwrap());
        let mut first = fresh(hyper);
        for _ in 0..3 {
            first.update(&dev, w.view_mut(), g.view(), 0.0).unwrap();
        }
        let at = save(dir.path(), 2, &dev, &first, state(3), "", model).unwrap();
        let saved = super::state(&at).unwrap();
        let mut second = fresh(hyper);
        restore_optimizer(&at, &saved, &dev, &mut second).unwrap();
        let mut copy = dev.upload(&dev.to_vec::<f32>(w.view())).unwrap();
        first.update(&dev, w.view_mut(), g.view(), 0.0).unwrap();
        second.update(&dev, copy.view_mut(), g.view(), 0.0).unwrap();
        let moments = |o: &Optimizer| [&o.m, &o.v].map(|x| dev.to_vec::<bf16>(x.view()));
        assert_eq!(moments(&first), moments(&second));
        assert_eq!(dev.to_vec::<f32>(w.view()), dev.to_vec::<f32>(copy.view()));
        let wide = restore_optimizer(&at, &saved, &dev, &mut fresh(Hyper::default())).unwrap_err().to_string();
        assert!(wide.contains("`m` is BF16, the run's optim.moments is f32"), "{wide}");
    }

    #[test]
    fn a_checkpoint_names_its_own_files_alone_whoever_wrote_the_one_before() {
        let (dir, dev) = (tempfile::tempdir().unwrap(), Device::open("cpu", 1).unwrap());
        let mut before = state(1);
        before.files.insert("haggle/optimizer-00003-of-00004.safetensors".into(), 7);
        let at = save(dir.path(), 2, &dev, &optimizer(&dev), before, "", model).unwrap();
        let files: Vec<String> = open(&at).unwrap().files.into_keys().collect();
        assert_eq!(files, ["haggle/config.toml", "haggle/optimizer.safetensors", "model.safetensors"]);
    }

    #[test]
    fn the_newest_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        for step in [1, 2, 3] {
            save_step(dir.path(), step, model).unwrap();
        }
        assert_eq!(entries(&dir.path().join("checkpoints")), ["step-000002", "step-000003"]);
        assert!(latest(dir.path()).unwrap().unwrap().ends_with("step-000003"));
    }

    #[test]
    fn a_save_that_fails_leaves_the_last_good_one_and_gives_the_space_back() {
        let dir = tempfile::tempdir().unwrap();
        save_step(dir.path(), 1, model).unwrap();
        let full = |at: &Path| {
            model(at)?;
            // /dev/full takes nothing: "no space left on device".
            fs::write("/dev/full", b"x").map_err(|e| Error::io(at.join("tokenizer.json"), e))
        };
        let message = save_step(dir.path(), 2, full).unwrap_err().to_string();
        assert!(message.contains("No space left"), "{message}");
        assert_eq!(entries(&dir.path().join("checkpoints")), ["step-000001"]);
        assert!(open(&latest(dir.path()).unwrap().unwrap()).is_ok());
    }

    #[test]
    fn a_kill_between_any_two_acts_of_a_save_leaves_a_whole_checkpoint() {
        let dir = tempfile::tempdir().unwrap();
        save_step(dir.path(), 1, model).unwrap();
        let all = dir.path().join("checkpoints");
        // killed while writing: an unfinished folder
        fs::create_dir_all(all.join(".unfinished-step-000002/haggle")).unwrap();
        fs::write(all.join(".unfinished-step-000002/model.safetensors"), b"wei").unwrap();
        assert!(latest(dir.path()).unwrap().unwrap().ends_with("step-000001"));
        // killed between the rename and `latest`: a whole folder that nothing names
        fs::create_dir_all(all.join("step-000002")).unwrap();
        fs::write(all.join("step-000002/model.safetensors"), b"other").unwrap();
        assert!(latest(dir.path()).unwrap().unwrap().ends_with("step-000001"));
        // the resumed run saves step 2 again
        save_step(dir.path(), 2, model).unwrap();
        let at = latest(dir.path()).unwrap().unwrap();
        assert_eq!(fs::read(at.join("model.safetensors")).unwrap(), b"weights");
        assert_eq!(entries(&all), ["step-000001", "step-000002"]);
    }

    #[test]
    fn damage_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let at = save_step(dir.path(), 1, model).unwrap();
        let moments = at.join("haggle/optimizer.safetensors");
        let whole = fs::read(&moments).unwrap();
        fs::write(&moments, b"moments").unwrap();
        let message = open(&at).unwrap_err().to_string();
        let named = "optimizer.safetensors: rank 0's part of the optimizer's moments, does not match its checksum";
        assert!(message.contains(named), "{message}");
        check_model(&at).unwrap();
        fs::write(&moments, whole).unwrap();
        fs::write(at.join("model.safetensors"), b"weighty").unwrap();
        for refused in [open(&at).map(drop), check_model(&at)] {
            let message = refused.unwrap_err().to_string();
            assert!(message.contains("model.safetensors: does not match its checksum"), "{message}");
        }
        fs::remove_file(at.join("haggle/state.json")).unwrap();
        let message = latest(dir.path()).unwrap_err().to_string();
        assert!(message.contains("names `step-000001`, which is no checkpoint"), "{message}");
    }
}
