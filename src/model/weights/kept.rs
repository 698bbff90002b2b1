//! What a rank keeps of weights that train, and how the rest comes to it.
//!
//! The one idea: a rank updates the f32 parameters that it keeps; what forwards read of the others is brought to it, whole after
//! every update, or layer by layer while it learns.

use super::{Held, Read, Weights};
use crate::device::{Buffer, DType, Device, View, ViewMut};
use crate::dist::{Cuts, Experts, Kept, Ranks, Shard};
use crate::error::{Error, Result};
use crate::model::by_layer::ByLayer;
use crate::model::spread::Spread;
use crate::model::{Adapter, Plan};
use crate::ops::embed::copy;
use crate::ops::want;
use half::bf16;
use std::ops::Range;

/// Brings every rank's part of what it is given to all ranks.
pub type Sharing<'a> = dyn FnMut(ViewMut) -> Result<()> + 'a;

/// What one of several ranks keeps of parameters that train.
pub enum Keeping {
    /// This part of them in f32 where forwards read them in bf16, and what forwards read whole.
    Part(Kept),
    /// Its cuts of them in f32; what forwards read comes from all ranks.
    ByLayer(Ranks, Cuts),
}

impl Weights {
    /// Which of the parameters that train [`Weights::data`] holds.
    pub fn kept(&self) -> Kept {
        if let Held::Trained { kept, .. } = &self.held { kept.clone() } else { Kept::all(self.n_trained()) }
    }

    /// How what trains is cut over ranks: by the buckets of the layout; an adapter is one.
    pub fn cuts(&self, shard: Shard, world: usize) -> Cuts {
        let experts = if self.is_spread() { Experts::Spread } else { Experts::Everywhere };
        match self.adapter() {
            Some(adapter) => Cuts::whole(adapter.n_elements(), world),
            None => shard.cuts(&self.layout.buckets(), world, experts),
        }
    }

    /// The same weights, whose experts are spread over ranks while these go through them in step; of one rank they are not.
    pub fn spread_over(self, ranks: &Ranks) -> Weights {
        let spread = self.config.experts.filter(|_| ranks.world() > 1).map(|experts| Spread::new(ranks, experts.count));
        Weights { spread, ..self }
    }

    /// True where its experts are spread over ranks.
    pub fn is_spread(&self) -> bool {
        self.spread.is_some()
    }

    /// Whose experts are whose, where they are spread.
    pub(in crate::model) fn spread(&self) -> Option<&Spread> {
        self.spread.as_ref()
    }

    /// True where each of several ranks keeps a part of the parameters alone.
    pub fn in_parts(&self) -> bool {
        matches!(self.held, Held::Trained { read: Read::Narrow(_) | Read::ByLayer(_), .. })
    }

    fn by_layer(&mut self) -> Option<(&mut ByLayer, &Buffer, &Kept)> {
        match &mut self.held {
            Held::Trained { data, read: Read::ByLayer(by_layer), kept } => Some((by_layer, &*data, &*kept)),
            _ => None,
        }
    }

    /// Brings the parameters of a bucket together for forwards to read, where each rank keeps a part alone: all come to this.
    ///
    /// # Errors
    /// What the device and the ranks say.
    pub(in crate::model) fn enter(&mut self, dev: &Device, bucket: usize) -> Result<()> {
        self.by_layer().map_or(Ok(()), |(by_layer, data, kept)| by_layer.enter(dev, data, kept, bucket))
    }

    /// Takes nothing for what was entered before.
    pub(in crate::model) fn forget(&mut self) {
        self.by_layer().into_iter().for_each(|(by_layer, ..)| by_layer.forget());
    }

    /// Brings all parameters together for forwards to read, until [`Weights::let_go`]; where each rank has them nothing is done.
    ///
    /// # Errors
    /// What the device and the ranks say.
    pub fn bring_together(&mut self, dev: &Device) -> Result<()> {
        self.by_layer().map_or(Ok(()), |(by_layer, data, kept)| by_layer.bring(dev, data, kept))
    }

    /// Gives back what [`Weights::bring_together`] brought, and makes room for layers; of a dry plan gives that back too.
    ///
    /// # Errors
    /// [`Error::Memory`].
    pub fn let_go(&mut self, plan: &mut Plan) -> Result<()> {
        let Some((by_layer, ..)) = self.by_layer() else { return Ok(()) };
        by_layer.let_go();
        by_layer.make_room(plan)
    }

    /// `Ok` where a forward finds all parameters.
    pub(in crate::model) fn want_together(&self) -> Result<()> {
        let here = match &self.held {
            Held::Trained { read: Read::ByLayer(by_layer), .. } => by_layer.is_together(),
            Held::Trained { .. } | Held::Frozen { .. } | Held::Over { .. } => true,
        };
        want("forward", "weights brought together from all ranks", here.into(), 1)
    }

    /// Takes the value of every parameter, `[n_trained]`; of what is kept elsewhere what forwards read. Then as
    /// [`Weights::pack`].
    ///
    /// # Errors
    /// [`crate::Error::Shape`] for another number of values; what the device refuses.
    pub fn take(&mut self, dev: &Device, values: &[f32]) -> Result<()> {
        want("take", "a value for every parameter", values.len(), self.n_trained())?;
        match &mut self.held {
            Held::Trained { data, read, kept } => {
                write_kept(dev, (data, read, kept), values.len(), 0..values.len(), values);
                self.version = self.version.wrapping_add(1);
            }
            Held::Frozen { .. } | Held::Over { .. } => dev.write(self.data_mut(), values),
        }
        self.pack(dev)
    }

    pub(super) fn want_whole(&self, kept: &Kept) -> Result<()> {
        if kept.len() == self.layout.len {
            return Ok(());
        }
        let what = "a rank keeps a part of the parameters in f32: they are brought together first".into();
        Err(Error::Ranks { what })
    }

    /// The parameters that train to write, as [`Weights::data_mut`]; and all that forwards read of them where that is the same
    /// rounded to bf16: who writes one writes both, then [`Weights::renew`].
    pub fn both_mut(&mut self, dev: &Device) -> (ViewMut<'_>, Option<ViewMut<'_>>) {
        if !matches!(self.held, Held::Trained { .. }) {
            return (self.data_mut(), None);
        }
        self.version = self.version.wrapping_add(1);
        let Held::Trained { data, read, .. } = &mut self.held else { unreachable!("looked at above") };
        let narrow = match (dev, read) {
            (Device::Gpu(_), Read::Narrow(narrow)) => Some(narrow.view_mut()),
            _ => None,
        };
        (data.view_mut(), narrow)
    }

    /// After every rank has written its part of the parameters, all that [`Weights::both_mut`] gave: `share` brings what
    /// forwards read of them to all, in the type they read; then as [`Weights::pack`].
    ///
    /// # Errors
    /// What the device and the ranks say.
    pub fn renew(&mut self, dev: &Device, share: &mut Sharing) -> Result<()> {
        if self.by_layer().is_some() {
            return self.pack(dev);
        }
        if let (Device::Gpu(_), Held::Trained { read: Read::Narrow(narrow), .. }) = (dev, &mut self.held) {
            share(narrow.view_mut())?;
            self.packed = Some(self.version);
            return Ok(());
        }
        let version = self.version;
        share(self.data_mut())?;
        self.version = version;
        self.pack(dev)
    }

    /// The type in which forwards' parameters go from rank to rank.
    pub fn renewed(&self) -> DType {
        if self.in_parts() { self.config.compute } else { DType::F32 }
    }

    /// CRC-32C of what forwards read of the parameters that train, as it lies there: what all ranks must have alike. None where
    /// no two ranks keep the same.
    ///
    /// # Errors
    /// What reading them from the device meets.
    pub fn read_crc(&self, dev: &Device) -> Result<Option<u32>> {
        if matches!(self.held, Held::Trained { read: Read::ByLayer(_), .. }) {
            return Ok(None);
        }
        let read = self.adapter().map_or_else(|| self.at(0..self.layout.len), Adapter::data);
        Ok(Some(match read.dtype() {
            DType::Bf16 => crc32c::crc32c(bytemuck::cast_slice(&dev.download::<bf16>(read)?)),
            _ => crc32c::crc32c(bytemuck::cast_slice(&dev.download::<f32>(read)?)),
        }))
    }

    /// Copies every parameter in f32; of what is kept elsewhere what forwards read.
    pub(super) fn copy_trained(&mut self, dev: &Device, all: View) -> Result<()> {
        let whole = self.layout.len;
        let Held::Trained { data, read, kept } = &mut self.held else { return Ok(()) };
        if let (Read::Narrow(narrow), true) = (read, kept.len() < whole) {
            copy(dev, all, narrow.view_mut())?;
        }
        for (whole, held) in kept.of_range(&(0..whole)) {
            copy(dev, all.at(whole), data.at_mut(held))?;
        }
        self.version = self.version.wrapping_add(1);
        Ok(())
    }
}

/// Writes `values` to the elements `range` of parameters that train, `whole` in all: what this rank keeps of them in f32; and,
/// where it keeps a part alone, all of them as forwards read them.
pub(super) fn write_kept(
    dev: &Device,
    (data, read, kept): (&mut Buffer, &mut Read, &Kept),
    whole: usize,
    range: Range<usize>,
    values: &[f32],
) {
    for (own, held) in kept.of_range(&range) {
        dev.write(data.at_mut(held), &values[own.start - range.start..own.end - range.start]);
    }
    if let (Read::Narrow(narrow), true) = (read, kept.len() < whole) {
        let rounded: Vec<bf16> = values.iter().map(|x| bf16::from_f32(*x)).collect();
        dev.write(narrow.at_mut(range), &rounded);
    }
}
