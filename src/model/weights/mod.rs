//! A model's parameters: one flat buffer, f32 or, of frozen ones, bf16. What they begin with: `initial`.

mod initial;
mod kept;

pub(super) use initial::initial;
pub use kept::{Keeping, Sharing};

use self::kept::write_kept;
use super::adapter::{Adapter, Lora, LowRank};
use super::by_layer::{ByLayer, GROUP};
use super::layout::end_to_end;
use super::spread::Spread;
use super::{Gradient, Grouped, Layout, ModelConfig, Plan, TensorId, TensorSpec};
use crate::device::{Buffer, DType, Device, View, ViewMut};
use crate::dist::Kept;
use crate::error::{Error, Result};
use crate::ops::embed::copy;
use crate::ops::gemm::{Matrix, gemm_pack, panels_len};
use crate::ops::{rope, want};
use half::bf16;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

/// The parameters of one model on one device, with what is derived from its config.
///
/// Weights that train are f32, beside what forwards read of them: a copy in bf16 where the model computes in it. Frozen
/// weights are bf16 alone where nothing is lost by it: where their folder holds nothing finer, on the CPU and on a device that
/// computes in bf16. And weights may be another's, frozen and held once for all that read them, with an adapter over them or
/// without: then what trains is the adapter.
pub struct Weights {
    /// The model's shape.
    pub config: ModelConfig,
    /// Where each tensor lies in the flat buffer.
    pub layout: Layout,
    /// Counts changes of the parameters. Caches of anything computed from them are keyed by it.
    pub version: u64,
    held: Held,
    /// Whose experts are whose, where they are spread over ranks.
    spread: Option<Spread>,
    /// The matrices in panels, one after another, and the version they were made of.
    panels: Buffer,
    packed: Option<u64>,
    /// The checksum of weights that are never written again.
    crc: OnceLock<u32>,
    /// Where a tensor's panels lie: nowhere for vectors, and on devices that read matrices as they are stored.
    panels_at: Vec<Range<usize>>,
    /// Rotary cosines and sines, `[max_position_embeddings, D]` f32.
    rope: Buffer,
}

/// How parameters are held: flat buffers of `[layout.len]`.
enum Held {
    /// In f32, and what forwards read of them. The f32 ones may be a part alone, `kept`, where forwards do not read them.
    Trained { data: Buffer, read: Read, kept: Kept },
    /// In bf16; and norms and biases in f32, end to end, on the CPU, whose ops take them so.
    Frozen { data: Buffer, vectors: Buffer, vectors_at: Vec<Range<usize>> },
    /// By another, and never written; and what is added to them.
    Over { base: Arc<Weights>, adapter: Option<Box<Adapter>> },
}

/// What forwards read of parameters that train.
enum Read {
    /// Those, in f32.
    Data,
    /// The same, rounded to bf16.
    Narrow(Buffer),
    /// The same in what the model computes in, brought together from all ranks.
    ByLayer(Box<ByLayer>),
}

impl Weights {
    /// A model whose parameters are all zero, to be trained.
    ///
    /// # Errors
    /// [`Error::Memory`].
    pub fn zeros(dev: &Device, config: ModelConfig) -> Result<Weights> {
        Weights::planned(&mut Plan::on(dev), "model", config)
    }

    /// The same, through a plan, where it is called `name`.
    ///
    /// # Errors
    /// [`Error::Memory`].
    pub fn planned(plan: &mut Plan, name: &str, config: ModelConfig) -> Result<Weights> {
        Weights::planned_kept(plan, name, config, &|layout| Keeping::Part(Kept::all(layout.len)))
    }

    /// The same for a rank that keeps of a layout what `keeping` says; what forwards read in f32 as it is kept is whole at every
    /// rank.
    ///
    /// # Errors
    /// [`Error::Memory`].
    pub fn planned_kept(
        plan: &mut Plan,
        name: &str,
        config: ModelConfig,
        keeping: &dyn Fn(&Layout) -> Keeping,
    ) -> Result<Weights> {
        let config = ModelConfig { stored: DType::F32, ..config };
        let layout = Layout::new(&config);
        let held = match keeping(&layout) {
            Keeping::Part(kept) => {
                let kept = if config.compute == DType::Bf16 { kept } else { Kept::all(layout.len) };
                let data = plan.f32(GROUP, name, kept.len())?;
                Held::Trained { data, read: read(plan, name, &config, &layout)?, kept }
            }
            Keeping::ByLayer(ranks, cuts) => {
                let kept = cuts.kept(ranks.rank());
                let data = plan.f32(GROUP, name, kept.len())?;
                let by_layer = ByLayer::planned(plan, name, &layout, config.compute, (ranks, cuts))?;
                Held::Trained { data, read: Read::ByLayer(Box::new(by_layer)), kept }
            }
        };
        Weights::of(plan, name, config, layout, held)
    }

    /// A model of zeros that only forwards read, through a plan; held in bf16 where nothing is lost by it.
    ///
    /// # Errors
    /// [`Error::Memory`].
    pub fn planned_frozen(plan: &mut Plan, name: &str, config: ModelConfig) -> Result<Weights> {
        let on_cpu = matches!(plan.device(), Device::Cpu(_));
        // What trains may begin with it: an f32 folder that was rounded would begin elsewhere.
        if config.stored != DType::Bf16 || !on_cpu && config.compute != DType::Bf16 {
            return Weights::planned(plan, name, config);
        }
        let layout = Layout::new(&config);
        let widened = |spec: &TensorSpec| if on_cpu && spec.matrix().is_none() { spec.len() } else { 0 };
        let (vectors_at, end) = end_to_end(&layout.specs, widened);
        let data = plan.buffer(GROUP, name, DType::Bf16, layout.len)?;
        let vectors = plan.f32(GROUP, format!("{name}, norms and biases"), end)?;
        Weights::of(plan, name, config, layout, Held::Frozen { data, vectors, vectors_at })
    }

    fn of(plan: &mut Plan, name: &str, config: ModelConfig, layout: Layout, held: Held) -> Result<Weights> {
        let dev = plan.device().clone();
        let mut rope =
            plan.f32(GROUP, format!("{name}, rotary angles"), config.max_position_embeddings * config.head_dim)?;
        if !plan.is_dry() {
            let table = rope::table(config.max_position_embeddings, &config.rope.frequencies(config.head_dim));
            dev.write(rope.view_mut(), &table);
        }
        let dtype = if matches!(held, Held::Frozen { .. }) { DType::Bf16 } else { DType::F32 };
        // Of a layer that is there for a moment nothing is made.
        let passes = matches!(held, Held::Trained { read: Read::ByLayer(_), .. });
        let matrix = |spec: &TensorSpec| spec.matrix().filter(|_| !passes);
        let (panels_at, end) =
            end_to_end(&layout.specs, |spec| matrix(spec).map_or(0, |(n, k)| panels_len(&dev, n, k, dtype)));
        let panels = plan.f32(GROUP, format!("{name}, in panels"), end)?;
        let crc = OnceLock::new();
        Ok(Weights { config, layout, version: 0, held, spread: None, panels, packed: None, crc, panels_at, rope })
    }

    /// Writes a tensor: rounded, where it is held in bf16.
    pub(super) fn set(&mut self, dev: &Device, id: TensorId, values: &[f32]) {
        let (range, whole) = (self.layout.specs[id.0].range(), self.layout.len);
        match &mut self.held {
            Held::Trained { data, read, kept } => write_kept(dev, (data, read, kept), whole, range, values),
            Held::Frozen { data, vectors, vectors_at } => {
                let narrow: Vec<bf16> = values.iter().map(|x| bf16::from_f32(*x)).collect();
                dev.write(data.at_mut(range), &narrow);
                let at = vectors_at[id.0].clone();
                if !at.is_empty() {
                    dev.write(vectors.at_mut(at), values);
                }
            }
            Held::Over { .. } => unreachable!("another's weights are only read"),
        }
    }

    /// A tensor's values on the host, without what an adapter adds to it.
    ///
    /// # Errors
    /// What the device met since.
    pub fn tensor(&self, dev: &Device, id: TensorId) -> Result<Vec<f32>> {
        let range = self.layout.specs[id.0].range();
        match &self.held {
            Held::Trained { data, kept, .. } => {
                self.want_whole(kept)?;
                dev.download(data.at(range))
            }
            Held::Frozen { data, .. } => {
                Ok(dev.download::<bf16>(data.at(range))?.into_iter().map(bf16::to_f32).collect())
            }
            Held::Over { base, .. } => base.tensor(dev, id),
        }
    }

    /// A tensor's values on the host, with what an adapter adds to it: its sums in f64, rounded once.
    ///
    /// # Errors
    /// What the device met since.
    pub fn merged(&self, dev: &Device, id: TensorId) -> Result<Vec<f32>> {
        let own = self.tensor(dev, id)?;
        let Some((adapter, [a, b])) = self.adapter().and_then(|x| Some((x, x.pair(id)?))) else { return Ok(own) };
        let (r, factor) = (adapter.lora.rank, adapter.lora.factor());
        let (a, b): (Vec<f32>, Vec<f32>) = (dev.download(adapter.data().at(a))?, dev.download(adapter.data().at(b))?);
        let n_in = a.len() / r;
        let row = |(w, b): (&[f32], &[f32])| {
            let mut sums = vec![0f64; n_in];
            for (a, b) in a.chunks_exact(n_in).zip(b) {
                sums.iter_mut().zip(a).for_each(|(sum, a)| *sum += f64::from(*b) * f64::from(*a));
            }
            w.iter().zip(sums).map(|(w, sum)| (f64::from(*w) + factor * sum) as f32).collect::<Vec<_>>()
        };
        Ok(own.chunks_exact(n_in).zip(b.chunks_exact(r)).flat_map(row).collect())
    }

    /// A tensor as a forward reads it: f32, or bf16 as it is held or as [`Weights::pack`] rounded it.
    ///
    /// # Panics
    /// When it is brought together by layers and its own was not entered.
    pub fn get(&self, id: TensorId) -> View<'_> {
        match &self.held {
            Held::Frozen { vectors, vectors_at, .. } if !vectors_at[id.0].is_empty() => {
                vectors.at(vectors_at[id.0].clone())
            }
            Held::Over { base, .. } => base.get(id),
            _ => self.at(self.layout.specs[id.0].range()),
        }
    }

    /// What forwards read of the matrices, of these elements.
    fn at(&self, range: Range<usize>) -> View<'_> {
        match &self.held {
            Held::Trained { data, read: Read::Data, .. } | Held::Frozen { data, .. } => data.at(range),
            Held::Trained { read: Read::Narrow(narrow), .. } => narrow.at(range),
            Held::Trained { read: Read::ByLayer(by_layer), .. } => by_layer.at(range),
            Held::Over { base, .. } => base.at(range),
        }
    }

    /// Rotary cosines and sines, `[max_position_embeddings, D]` f32.
    pub(super) fn rope(&self) -> View<'_> {
        if let Held::Over { base, .. } = &self.held { base.rope() } else { self.rope.view() }
    }

    /// The pair of A and B that an adapter has for a matrix.
    pub(super) fn low_rank(&self, id: TensorId) -> Option<LowRank<'_>> {
        self.adapter().and_then(|adapter| adapter.of(id))
    }

    /// Where a gradient is written: a tensor's part of `dw`, if it trains.
    pub(super) fn gradient<'a>(&self, dw: &'a mut dyn Gradient, id: TensorId) -> Option<ViewMut<'a>> {
        (!matches!(self.held, Held::Over { .. })).then(|| dw.part_mut(self.layout.specs[id.0].range()))
    }

    /// The same of these experts' matrices.
    pub(super) fn group_gradient<'a>(
        &self,
        dw: &'a mut dyn Gradient,
        g: &Grouped,
        experts: Range<usize>,
    ) -> Option<ViewMut<'a>> {
        (!matches!(self.held, Held::Over { .. })).then(|| dw.part_mut(self.layout.group(g, experts)))
    }

    /// The same weights for a model that computes in `compute`.
    ///
    /// # Errors
    /// [`Error::Device`] when the device does not compute in it, [`Error::Memory`].
    pub fn compute_in(mut self, dev: &Device, compute: DType) -> Result<Weights> {
        self.config.compute = compute;
        if let Held::Trained { read: as_read @ (Read::Data | Read::Narrow(_)), .. } = &mut self.held {
            *as_read = read(&mut Plan::on(dev), "model", &self.config, &self.layout)?;
        }
        self.pack(dev)?;
        self.ready(dev)?;
        Ok(self)
    }

    /// The same weights, for sequences of at most `context` positions: see [`ModelConfig::within`].
    pub fn within(mut self, context: usize) -> Weights {
        self.config = self.config.within(context);
        self
    }

    /// `Ok` when a forward may read them.
    pub(super) fn ready(&self, dev: &Device) -> Result<()> {
        if let Held::Over { base, adapter } = &self.held {
            let packed = adapter.is_none() || self.packed == Some(self.version);
            want("forward", "an adapter packed since its last change", packed.into(), 1)?;
            return base.ready(dev);
        }
        match (dev, self.config.compute) {
            (Device::Cpu(_), DType::Bf16) => {
                let what = "computes in f32; bf16 needs emu or cuda (model.dtype)".into();
                Err(Error::Device { device: dev.name().into(), what })
            }
            (Device::Gpu(_), DType::Bf16) => {
                want("forward", "weights packed since their last change", (self.packed == Some(self.version)).into(), 1)
            }
            _ => Ok(()),
        }
    }

    /// A matrix, to multiply by: with its panels, if they are of this version.
    pub fn matrix(&self, id: TensorId) -> Matrix<'_> {
        if let Held::Over { base, .. } = &self.held {
            return base.matrix(id);
        }
        let at = self.panels_at[id.0].clone();
        let fresh = self.packed == Some(self.version) && !at.is_empty();
        Matrix { rows: self.get(id), panels: fresh.then(|| self.panels.at(at)) }
    }

    /// The matrices of these experts, to multiply by: with their panels, if they are of this version.
    pub fn group(&self, g: &Grouped, experts: Range<usize>) -> Matrix<'_> {
        if let Held::Over { base, .. } = &self.held {
            return base.group(g, experts);
        }
        let at = self.panels_at[g.first.0 + experts.start].start..self.panels_at[g.first.0 + experts.end - 1].end;
        let fresh = self.packed == Some(self.version) && !at.is_empty();
        let rows = self.at(self.layout.group(g, experts));
        Matrix { rows, panels: fresh.then(|| self.panels.at(at)) }
    }

    /// Every parameter, `[n_trained]`: f32, of frozen weights perhaps bf16; of an adapter's weights its own alone, and of those
    /// that a rank keeps a part of that part.
    pub fn data(&self) -> View<'_> {
        match &self.held {
            Held::Trained { data, .. } | Held::Frozen { data, .. } => data.view(),
            Held::Over { adapter: Some(adapter), .. } => adapter.data(),
            Held::Over { base, .. } => base.data(),
        }
    }

    /// Every parameter that trains, to write, of those that a rank keeps a part of that part: counts a change.
    /// [`Weights::pack`] before the next decode spares it time.
    pub fn data_mut(&mut self) -> ViewMut<'_> {
        self.version = self.version.wrapping_add(1);
        match &mut self.held {
            Held::Trained { data, .. } | Held::Frozen { data, .. } => data.view_mut(),
            Held::Over { adapter: Some(adapter), .. } => adapter.data_mut(),
            Held::Over { .. } => unreachable!("another's weights are only read"),
        }
    }

    /// Makes what forwards read instead of the parameters: their copy in bf16, and the panels of all matrices (decode
    /// multiplies so few rows that reordering a matrix for each product would show: a tenth of a step of 64 rows).
    ///
    /// # Errors
    /// What the device refuses.
    pub fn pack(&mut self, dev: &Device) -> Result<()> {
        if let Held::Over { adapter, .. } = &mut self.held {
            adapter.as_mut().map_or(Ok(()), |adapter| adapter.pack(dev))?;
            self.packed = Some(self.version);
            return Ok(());
        }
        if let (Device::Gpu(_), Held::Trained { data, read: Read::Narrow(narrow), kept }) = (dev, &mut self.held) {
            for (whole, held) in kept.of_range(&(0..self.layout.len)) {
                copy(dev, data.at(held), narrow.at_mut(whole))?;
            }
        }
        for (id, at) in self.panels_at.iter().enumerate().filter(|(_, at)| !at.is_empty()) {
            if let Some((n, k)) = self.layout.specs[id].matrix() {
                let (Held::Trained { data, .. } | Held::Frozen { data, .. }) = &self.held else { continue };
                let rows = self.layout.of(data, TensorId(id));
                gemm_pack(dev, rows, self.panels.at_mut(at.clone()), n, k)?;
            }
        }
        self.packed = Some(self.version);
        Ok(())
    }

    /// Calls these very parameters by another version: what was made of them stays.
    pub fn renumber(&mut self, version: u64) {
        self.packed = if self.packed == Some(self.version) { Some(version) } else { None };
        self.version = version;
    }

    /// A flat buffer of zeros laid out like what trains: for gradients and moments.
    ///
    /// # Errors
    /// [`Error::Memory`].
    pub fn zeros_like(&self, dev: &Device) -> Result<Buffer> {
        dev.zeros(DType::F32, self.n_trained())
    }

    /// Bytes of these weights alone: nothing of those that are another's.
    pub fn own_bytes(&self) -> usize {
        match &self.held {
            Held::Over { adapter, .. } => adapter.as_ref().map_or(0, |adapter| adapter.size_bytes()),
            _ => self.size_bytes(),
        }
    }

    /// Bytes of everything.
    pub fn size_bytes(&self) -> usize {
        let held = match &self.held {
            Held::Trained { data, read: Read::Data, .. } => data.size_bytes(),
            Held::Trained { data, read: Read::Narrow(narrow), .. } => data.size_bytes() + narrow.size_bytes(),
            Held::Trained { data, read: Read::ByLayer(by), .. } => data.size_bytes() + by.size_bytes(),
            Held::Frozen { data, vectors, .. } => data.size_bytes() + vectors.size_bytes(),
            Held::Over { base, .. } => base.size_bytes() + self.own_bytes(),
        };
        held + self.panels.size_bytes() + self.rope.size_bytes()
    }

    /// Copies what trains of another model of the same shape: its parameters, where that one is frozen tensor by tensor
    /// through the host, or its adapter.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] when the sizes differ; what the devices say.
    pub fn copy_from(&mut self, dev: &Device, other: &Weights) -> Result<()> {
        want("copy", "parameters of one shape", other.n_trained(), self.n_trained())?;
        match (&self.held, &other.held) {
            (Held::Trained { .. }, Held::Over { base, adapter: None }) => return self.copy_from(dev, base),
            (Held::Over { .. }, Held::Over { .. }) => copy(dev, other.data(), self.data_mut())?,
            (Held::Trained { .. }, Held::Trained { data, kept, .. }) => {
                other.want_whole(kept)?;
                self.copy_trained(dev, data.view())?;
            }
            _ => {
                for id in (0..self.layout.specs.len()).map(TensorId) {
                    self.set(dev, id, &other.tensor(dev, id)?);
                }
                self.version = self.version.wrapping_add(1);
            }
        }
        self.pack(dev)
    }

    /// The same, read by forwards alone from now on: held in bf16 where nothing is lost by it.
    ///
    /// # Errors
    /// [`Error::Memory`].
    pub fn frozen(self, dev: &Device) -> Result<Weights> {
        if matches!(self.held, Held::Over { .. }) {
            return Ok(self);
        }
        let mut frozen = Weights::planned_frozen(&mut Plan::on(dev), "model", self.config.clone())?;
        if matches!(frozen.held, Held::Trained { .. }) {
            return Ok(self);
        }
        frozen.copy_from(dev, &self)?;
        frozen.renumber(self.version);
        Ok(frozen)
    }

    /// CRC-32C of all parameters in f32, in their layout, and of an adapter's behind them: says whether two models are the
    /// same, however they are held.
    ///
    /// # Errors
    /// What reading them from the device meets.
    pub fn crc(&self, dev: &Device) -> Result<u32> {
        if let Held::Over { base, adapter } = &self.held {
            let crc = base.crc.get().map_or_else(|| base.crc(dev), |crc| Ok(*crc))?;
            let crc = *base.crc.get_or_init(|| crc);
            let own = adapter.as_ref().map(|adapter| dev.download::<f32>(adapter.data())).transpose()?;
            return Ok(own.map_or(crc, |own| crc32c::crc32c_append(crc, bytemuck::cast_slice(&own))));
        }
        let (mut crc, mut end) = (0, 0);
        for (id, spec) in self.layout.specs.iter().enumerate() {
            crc = crc32c::crc32c_append(crc, &vec![0; size_of::<f32>() * (spec.offset - end)]);
            crc = crc32c::crc32c_append(crc, bytemuck::cast_slice(&self.tensor(dev, TensorId(id))?));
            end = spec.range().end;
        }
        Ok(crc32c::crc32c_append(crc, &vec![0; size_of::<f32>() * (self.layout.len - end)]))
    }

    /// The same weights, for others to read too: never written again.
    pub fn shared(self) -> Arc<Weights> {
        match self.held {
            Held::Over { base, adapter: None } => base,
            _ => Arc::new(self),
        }
    }

    /// Weights over another's whose adapter is new, through a plan: see [`Adapter::planned`].
    ///
    /// # Errors
    /// [`Error::Memory`].
    pub fn planned_over(plan: &mut Plan, base: &Arc<Weights>, lora: Lora, seed: u64) -> Result<Weights> {
        let (dev, rank) = (plan.device().clone(), lora.rank);
        let adapter = Adapter::planned(plan, &base.config, &base.layout, lora, seed)?;
        if !plan.is_dry() {
            return Weights::over(&dev, base, Some(adapter));
        }
        let mut w = Weights::over(&dev, base, None)?;
        (w.config.adapter_rank, w.held) = (rank, Held::Over { base: base.clone(), adapter: Some(Box::new(adapter)) });
        Ok(w)
    }

    /// Another's weights with an adapter over them, or without: these parameters are held once for all who read them.
    ///
    /// # Errors
    /// What the device refuses.
    pub fn over(dev: &Device, base: &Arc<Weights>, adapter: Option<Adapter>) -> Result<Weights> {
        let config = ModelConfig {
            adapter_rank: adapter.as_ref().map_or(0, |adapter| adapter.lora.rank),
            ..base.config.clone()
        };
        // An engine that has served the base, or another adapter over it, must not take these for the same.
        let own = adapter.as_ref().map(|adapter| dev.download::<f32>(adapter.data())).transpose()?;
        let crc = own.map_or(0, |own| crc32c::crc32c(bytemuck::cast_slice(&own)));
        let (none, version) = (|| dev.zeros(DType::F32, 0), base.version.wrapping_add(u64::from(crc) << 32));
        let mut w = Weights {
            config,
            layout: base.layout.clone(),
            version,
            spread: None,
            panels: none()?,
            packed: None,
            crc: OnceLock::new(),
            panels_at: vec![],
            rope: none()?,
            held: Held::Over { base: base.clone(), adapter: adapter.map(Box::new) },
        };
        w.pack(dev)?;
        Ok(w)
    }

    /// Whose weights these are, where they are another's.
    pub fn base(&self) -> Option<&Arc<Weights>> {
        if let Held::Over { base, .. } = &self.held { Some(base) } else { None }
    }

    /// The adapter over them, if there is one: all that trains.
    pub fn adapter(&self) -> Option<&Adapter> {
        if let Held::Over { adapter, .. } = &self.held { adapter.as_deref() } else { None }
    }

    /// Names the model under an adapter, as its file will.
    pub fn name_base(&mut self, name: &str) {
        if let Held::Over { adapter: Some(adapter), .. } = &mut self.held {
            adapter.base_name = name.into();
        }
    }

    /// The tensors that train, in ascending offset of [`Weights::data`].
    pub fn trained(&self) -> &[TensorSpec] {
        self.adapter().map_or(&self.layout.specs, Adapter::specs)
    }

    /// Elements of what trains, gaps included: of gradients and moments too.
    pub fn n_trained(&self) -> usize {
        self.adapter().map_or(self.layout.len, Adapter::n_elements)
    }
}

fn read(plan: &mut Plan, name: &str, config: &ModelConfig, layout: &Layout) -> Result<Read> {
    if config.compute != DType::Bf16 {
        return Ok(Read::Data);
    }
    Ok(Read::Narrow(plan.buffer(GROUP, format!("{name}, in bf16"), DType::Bf16, layout.len)?))
}
