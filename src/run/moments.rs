//! The optimizer's moments on disk: every rank writes those of its shard, and any number of ranks reads them again.
//!
//! ```text
//! haggle/optimizer.safetensors                 all of them, of one rank
//! haggle/optimizer-00002-of-00008.safetensors  those of the second of eight; `elements` says which: `a..b,c..d`
//! ```
//!
//! The one idea: a file says which parameters it is of and all files together are of all, so that a rank takes its own out of
//! those that have a part of it, and nothing asks how many wrote them, or how they were cut. Their checksums are with all
//! others in `state.json`.

use crate::device::{DType, Device, map_file};
use crate::dist::{Kept, bytes_of};
use crate::error::{Error, Result};
use crate::train::optimizer::Optimizer;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::path::Path;

const ALONE: &str = "haggle/optimizer.safetensors";
/// Which parameters a file is of, in its metadata: `a..b,c..d`.
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
    let (file, kept) = (file_of(optimizer.ranks.rank(), optimizer.ranks.world()), optimizer.kept());
    let (path, dtype) = (at.join(&file), optimizer.m.dtype());
    let [m, v] = [&optimizer.m, &optimizer.v].map(|of| bytes_of(dev, of.view()));
    let (m, v) = (m?, v?);
    let mut views = Vec::new();
    for (name, data) in [("m", &m), ("v", &v)] {
        let view = TensorView::new(stored(dtype), vec![kept.len()], data);
        views.push((name, view.map_err(|e| Error::data(&path, e))?));
    }
    let named = |part: &Range<usize>| format!("{}..{}", part.start, part.end);
    let elements = || kept.parts().iter().map(named).collect::<Vec<_>>().join(",");
    let elements = || HashMap::from([(ELEMENTS.to_string(), elements())]);
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
    let (kept, each) = (optimizer.kept(), optimizer.m.dtype().size());
    let mut own = [vec![0; kept.len() * each], vec![0; kept.len() * each]];
    let (mut all, mut last) = (Vec::new(), at.join(ALONE));
    for file in files.filter(|file| writer(file).is_some()) {
        last = at.join(file);
        all.extend_from_slice(part(&last, file, optimizer.m.dtype(), kept, &mut own)?.parts());
    }
    all.sort_by_key(|part| part.start);
    let (whole, here) = (optimizer.cuts().n_elements(), all.iter().map(Range::len).sum::<usize>());
    if here != whole {
        return Err(Error::data(&last, format!("the moments of {here} parameters are here, the model has {whole}")));
    }
    if Kept::of(all) != Kept::all(whole) {
        let what = format!("the files' `{ELEMENTS}` are not all of the model's: they overlap, and others are missing");
        return Err(Error::data(&last, what));
    }
    optimizer.restore(dev, &own[0], &own[1]);
    Ok(())
}

/// Takes what a file has of what a rank keeps; returns which parameters it is of.
fn part(path: &Path, file: &str, dtype: DType, kept: &Kept, own: &mut [Vec<u8>; 2]) -> Result<Kept> {
    if !path.exists() {
        return Err(missing(path, file));
    }
    let (bytes, each) = (map_file(path)?, dtype.size());
    let broken = |e: safetensors::SafeTensorError| Error::data(path, e);
    let (tensors, of) = (SafeTensors::deserialize(&bytes).map_err(broken)?, SafeTensors::read_metadata(&bytes));
    let of = elements(path, of.map_err(broken)?.1.metadata().as_ref())?;
    let mut found = Kept::default();
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
        found = of.clone().unwrap_or_else(|| Kept::all(n));
        if found.len() != n {
            let what = format!("`{name}` holds {n} numbers of elements {:?}", found.parts());
            return Err(Error::data(path, what));
        }
        let bytes = |part: Range<usize>| part.start * each..part.end * each;
        for part in found.parts() {
            for (both, mine) in kept.of_range(part) {
                own[bytes(mine)].copy_from_slice(&tensor.data()[bytes(found.run(&both))]);
            }
        }
    }
    Ok(found)
}

/// What a file says it is of; none where it says nothing: all.
fn elements(path: &Path, metadata: Option<&HashMap<String, String>>) -> Result<Option<Kept>> {
    let Some(text) = metadata.and_then(|all| all.get(ELEMENTS)) else { return Ok(None) };
    let number = |text: &str| text.parse::<usize>().ok();
    let range = |text: &str| text.split_once("..").and_then(|(start, end)| Some(number(start)?..number(end)?));
    let parts: Option<Vec<Range<usize>>> = text.split(',').filter(|part| !part.is_empty()).map(range).collect();
    let ascending = |parts: &Vec<Range<usize>>| {
        parts.iter().all(|part| part.start <= part.end) && parts.windows(2).all(|two| two[0].end <= two[1].start)
    };
    match parts.filter(ascending) {
        Some(parts) => Ok(Some(Kept::of(parts))),
        None => Err(Error::data(path, format!("`{ELEMENTS}` is `{text}`, which is no list of ranges"))),
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
