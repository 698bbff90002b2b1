//! The optimizer's moments on disk: every rank writes those of its shard, and any number of ranks reads them again.
//!
//! ```text
//! haggle/optimizer.safetensors                 all of them, of one rank
//! haggle/optimizer-00002-of-00008.safetensors  those of the second of eight; `elements` says which
//! ```
//!
//! The one idea: a file says which parameters it is of and files lie end to end, so that a rank takes its own range out of
//! those that have a part of it, and nothing asks how many wrote them. Their checksums are with all others in `state.json`.

use crate::device::{DType, Device, map_file};
use crate::dist::bytes_of;
use crate::error::{Error, Result};
use crate::train::optimizer::Optimizer;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::path::Path;

const ALONE: &str = "haggle/optimizer.safetensors";
/// Which parameters a file is of, in its metadata: `a..b`.
const ELEMENTS: &str = "elements";

/// The file of a rank's moments in a checkpoint.
fn file_of(rank: usize, world: usize) -> String {
    match world {
        1 => ALONE.into(),
        _ => format!("haggle/optimizer-{:05}-of-{world:05}.safetensors", rank + 1),
    }
}

/// The rank that wrote a file of a checkpoint; none where it holds no moments.
pub(super) fn writer(file: &str) -> Option<usize> {
    if file == ALONE {
        return Some(0);
    }
    let (number, _) = file.strip_prefix("haggle/optimizer-")?.split_once("-of-")?;
    number.parse::<usize>().ok()?.checked_sub(1)
}

/// A number type as safetensors names it.
fn stored(dtype: DType) -> Dtype {
    if dtype == DType::Bf16 { Dtype::BF16 } else { Dtype::F32 }
}

/// Writes the moments of this rank's shard to disk; returns the file and its CRC-32C.
pub(super) fn write(at: &Path, dev: &Device, optimizer: &Optimizer) -> Result<(String, u32)> {
    let (file, shard) = (file_of(optimizer.ranks.rank(), optimizer.ranks.world()), optimizer.shard());
    let (path, dtype) = (at.join(&file), optimizer.m.dtype());
    let [m, v] = [&optimizer.m, &optimizer.v].map(|of| bytes_of(dev, of.view()));
    let (m, v) = (m?, v?);
    let mut views = Vec::new();
    for (name, data) in [("m", &m), ("v", &v)] {
        let view = TensorView::new(stored(dtype), vec![shard.len()], data);
        views.push((name, view.map_err(|e| Error::data(&path, e))?));
    }
    let elements = || HashMap::from([(ELEMENTS.to_string(), format!("{}..{}", shard.start, shard.end))]);
    let of = (file != ALONE).then(elements);
    let bytes = safetensors::serialize(views, of).map_err(|e| Error::data(&path, e))?;
    let written = File::create(&path).and_then(|mut f| f.write_all(&bytes).and_then(|()| f.sync_all()));
    written.map_err(|e| Error::io(&path, format!("cannot write: {e}")))?;
    Ok((file, crc32c::crc32c(&bytes)))
}

/// Puts the moments of this rank's shard back from the files of a checkpoint, whoever wrote them.
pub(super) fn read<'a>(
    at: &Path,
    files: impl Iterator<Item = &'a String>,
    dev: &Device,
    optimizer: &mut Optimizer,
) -> Result<()> {
    let (shard, each) = (optimizer.shard(), optimizer.m.dtype().size());
    let mut own = [vec![0; shard.len() * each], vec![0; shard.len() * each]];
    let (mut end, mut last) = (0, at.join(ALONE));
    for file in files.filter(|file| writer(file).is_some()) {
        last = at.join(file);
        let found = part(&last, file, optimizer.m.dtype(), end, &shard, &mut own)?;
        end = found.end;
    }
    let whole = optimizer.shards().last().map_or(0, |shard| shard.end);
    if end != whole {
        return Err(Error::data(&last, format!("the moments of {end} parameters are here, the model has {whole}")));
    }
    optimizer.restore(dev, &own[0], &own[1]);
    Ok(())
}

/// Takes what a file has of a shard; returns which parameters it is of.
fn part(
    path: &Path,
    file: &str,
    dtype: DType,
    begins: usize,
    shard: &Range<usize>,
    own: &mut [Vec<u8>; 2],
) -> Result<Range<usize>> {
    if !path.exists() {
        return Err(missing(path, file));
    }
    let (bytes, each) = (map_file(path)?, dtype.size());
    let broken = |e: safetensors::SafeTensorError| Error::data(path, e);
    let (tensors, of) = (SafeTensors::deserialize(&bytes).map_err(broken)?, SafeTensors::read_metadata(&bytes));
    let of = elements(path, of.map_err(broken)?.1.metadata().as_ref())?;
    let mut found = of.clone().unwrap_or(0..0);
    for (name, own) in ["m", "v"].into_iter().zip(own) {
        let tensor = tensors.tensor(name).map_err(broken)?;
        if tensor.dtype() != stored(dtype) {
            let (have, want) = (tensor.dtype(), dtype.name());
            let what = format!(
                "`{name}` is {have:?}, the run's optim.moments is {want}; resume with the type it was saved in"
            );
            return Err(Error::data(path, what));
        }
        let n = tensor.data().len() / each;
        found = of.clone().unwrap_or(0..n);
        if found.start != begins || found.len() != n {
            let what = format!("`{name}` holds {n} of elements {found:?}, the files before it end at {begins}");
            return Err(Error::data(path, what));
        }
        let both = shard.start.max(found.start)..shard.end.min(found.end);
        if !both.is_empty() {
            let bytes = |from: usize| (both.start - from) * each..(both.end - from) * each;
            own[bytes(shard.start)].copy_from_slice(&tensor.data()[bytes(found.start)]);
        }
    }
    Ok(found)
}

/// What a file says it is of; none where it says nothing: all.
fn elements(path: &Path, metadata: Option<&HashMap<String, String>>) -> Result<Option<Range<usize>>> {
    let Some(text) = metadata.and_then(|all| all.get(ELEMENTS)) else { return Ok(None) };
    let number = |text: &str| text.parse::<usize>().ok();
    let range = text.split_once("..").and_then(|(start, end)| Some(number(start)?..number(end)?));
    match range.filter(|range| range.start <= range.end) {
        Some(range) => Ok(Some(range)),
        None => Err(Error::data(path, format!("`{ELEMENTS}` is `{text}`, which is no range"))),
    }
}

/// A file that is not there.
pub(super) fn missing(path: &Path, file: &str) -> Error {
    let whose = whose(file);
    Error::data(path, format!("{whose}is missing; put it back, or point `latest` to another checkpoint"))
}

/// Whose part a file is, for those who miss it or find it damaged.
pub(super) fn whose(file: &str) -> String {
    writer(file).map_or(String::new(), |rank| format!("rank {rank}'s part of the optimizer's moments, "))
}
