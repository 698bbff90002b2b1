//! Memory of a command before it begins: what it will hold on its device, and what to change when that does not fit.
//!
//! The one idea: every plan is made by the code that allocates, run dry on the models' shapes, so that what would fit is
//! computed by planning again, not guessed. The settings it names never change a result but `optim.moments` and `model.dtype`.
//! What is free is what the process may really take (`device/room.rs`), in the measure of what limits it.

use crate::config::Config;
use crate::device::{Device, Room};
use crate::error::{Error, Result, mib};
use crate::infer::{Engine, EngineConfig, Lean};
use crate::model::{Lora, ModelConfig, Plan, Weights};
use crate::ops::attn::CHUNK;
use crate::setup::{base, engine_config, engine_pages, graphs};

/// A plan of a config's buffers.
pub type Planner<'a> = &'a dyn Fn(&Config, &mut Plan) -> Result<()>;

/// What an evaluation of `model` holds.
///
/// # Errors
/// What is wrong with the models' shapes.
pub fn of_evaluation(config: &Config, models: &[String], plan: &mut Plan) -> Result<()> {
    let (base, seller) = base::shapes(config)?;
    let own = base::is_its_own_seller(config);
    let apart = (seller.is_some() && !own).then_some(("seller", config.model.seller.as_str()));
    let untrained = if own { "untrained and seller" } else { "untrained" };
    let mut held = vec![];
    let named = models.iter().map(|name| ("model", name.as_str()));
    for (label, name) in [(untrained, config.model.base.as_str())].into_iter().chain(named).chain(apart) {
        base::plan_frozen(plan, label, name, config, &mut held)?;
    }
    // One buyer plays at a time.
    let mut buyer = base;
    for name in models {
        let model = base::shape(name, config)?;
        if engine_pages(config, &model) >= engine_pages(config, &buyer) {
            buyer = model;
        }
    }
    let dev = plan.device().clone();
    engine(plan, &buyer, engine_config(config, &dev, &buyer), config.rollout.constrain)?;
    seller.map_or(Ok(()), |seller| Engine::planned(plan, &seller, engine_config(config, &dev, &seller)).map(drop))
}

/// An engine, with room for masks where it is guided.
fn engine(plan: &mut Plan, shape: &ModelConfig, sizes: EngineConfig, guided: bool) -> Result<()> {
    let engine = Engine::planned(plan, shape, sizes)?;
    if guided { engine.with_masks(plan).map(drop) } else { Ok(()) }
}

/// What a chat with `model` holds.
///
/// # Errors
/// What is wrong with the model's shape.
pub fn of_chat(config: &Config, model: &str, guided: bool, plan: &mut Plan) -> Result<()> {
    let shape = base::shape(model, config)?;
    base::plan_frozen(plan, "model", model, config, &mut vec![])?;
    let sizes = chat_engine(config, plan.device(), &shape);
    engine(plan, &shape, sizes, guided)
}

/// What generating with a model of `shape` holds, in an engine of `sizes`, whose logits `lean` moves.
///
/// # Errors
/// What is wrong with the model's shape.
pub fn of_generation(shape: &ModelConfig, sizes: EngineConfig, lean: &Lean, plan: &mut Plan) -> Result<()> {
    frozen(shape, plan)?;
    generator(shape, sizes, lean, plan).map(drop)
}

/// An engine for generating so.
///
/// # Errors
/// As [`Engine::planned`].
pub fn generator(shape: &ModelConfig, sizes: EngineConfig, lean: &Lean, plan: &mut Plan) -> Result<Engine> {
    let engine = Engine::planned(plan, shape, sizes)?;
    if lean.is_none() { Ok(engine) } else { engine.with_leans(plan) }
}

/// The same with room for masks, biases and penalties, as serving needs it.
///
/// # Errors
/// What is wrong with the model's shape.
pub fn of_serving(shape: &ModelConfig, sizes: EngineConfig, plan: &mut Plan) -> Result<()> {
    frozen(shape, plan)?;
    Engine::planned(plan, shape, sizes)?.with_masks(plan)?.with_leans(plan).map(drop)
}

/// Frozen weights, and an adapter over them where the shape has one.
fn frozen(shape: &ModelConfig, plan: &mut Plan) -> Result<()> {
    let base = Weights::planned_frozen(plan, "model", ModelConfig { adapter_rank: 0, ..shape.clone() })?.shared();
    if shape.adapter_rank > 0 {
        Weights::planned_over(plan, &base, Lora::widest(shape), 0)?;
    }
    Ok(())
}

/// An engine's sizes for as many of `seats` sequences of `tokens` each as fit at a time, which moves no result, and for
/// `least_pages` at least; and what all of it takes, as `planner` plans it.
///
/// # Errors
/// As [`fit`], where one seat does not fit.
pub fn seats(
    dev: &Device,
    config: &Config,
    [mut seats, tokens, least_pages]: [usize; 3],
    planner: &dyn Fn(EngineConfig, &mut Plan) -> Result<()>,
) -> Result<(EngineConfig, Plan)> {
    loop {
        let sized = |config: &Config| {
            let (sized, own) = (EngineConfig::sized_for(seats, tokens), &config.engine);
            let pages = if own.pages > 0 { own.pages } else { sized.max_pages };
            EngineConfig {
                max_pages: pages.max(least_pages),
                max_rows: own.max_rows,
                graphs: graphs(config, dev),
                ..sized
            }
        };
        match fit(dev, config, &|config, plan| planner(sized(config), plan)) {
            Ok(plan) => return Ok((sized(config), plan)),
            Err(_) if seats > 1 => seats /= 2,
            Err(e) => return Err(e),
        }
    }
}

/// Sizes of a chat's engine: one sequence, one whole context.
pub fn chat_engine(config: &Config, dev: &Device, shape: &ModelConfig) -> EngineConfig {
    EngineConfig { graphs: graphs(config, dev), ..EngineConfig::sized_for(1, shape.max_position_embeddings) }
}

/// A setting that takes memory and moves no result: its key, its value, the least it can be, and how it is set.
struct Lever {
    key: &'static str,
    now: usize,
    least: usize,
    set: fn(&mut Config, usize),
}

fn levers(config: &Config) -> Result<Vec<Lever>> {
    let (base, seller) = base::shapes(config)?;
    let seller = seller.unwrap_or_else(|| base.clone());
    let context = base.max_position_embeddings.max(seller.max_position_embeddings);
    let pages = engine_pages(config, &base).max(engine_pages(config, &seller));
    Ok(vec![
        Lever { key: "engine.pages", now: pages, least: context.div_ceil(CHUNK) + 1, set: |c, n| c.engine.pages = n },
        Lever { key: "engine.max_rows", now: config.engine.max_rows, least: 64, set: |c, n| c.engine.max_rows = n },
        Lever {
            key: "grpo.micro_batch_tokens",
            now: config.grpo.micro_batch_tokens,
            least: base.max_position_embeddings.max(config.rollout.max_reply_tokens),
            set: |c, n| c.grpo.micro_batch_tokens = n,
        },
    ])
}

/// `Ok`, with the plan, when it fits what is free of the device.
///
/// # Errors
/// [`Error::Device`] that says what is needed, what is free, and which settings fit; what `planner` says.
pub fn fit(dev: &Device, config: &Config, planner: Planner) -> Result<Plan> {
    fit_beside(dev, config, planner, 1)
}

/// The same for one of `sharing` processes of a kind that begin at once on this machine: where the device has no memory of
/// its own, each has its share of what is free.
///
/// # Errors
/// As [`fit`].
pub fn fit_beside(dev: &Device, config: &Config, planner: Planner, sharing: usize) -> Result<Plan> {
    let plan = planned(dev, config, planner)?;
    let Some(room) = dev.room().map(|room| share(dev, room, sharing)) else { return Ok(plan) };
    if dev.footprint(&plan_sizes(&plan), room) <= room.free_bytes {
        return Ok(plan);
    }
    let what = format!("{}; {}", needs(dev, &plan, room), advice(dev, config, planner, room)?);
    Err(Error::Device { device: dev.name().into(), what })
}

/// A process's share of a room: what is mapped is counted for each on its own.
fn share(dev: &Device, room: Room, sharing: usize) -> Room {
    if sharing < 2 || room.mapped || !dev.takes_of_machine() {
        return room;
    }
    Room { free_bytes: room.free_bytes / sharing as u64, bound: "the other ranks on this machine", ..room }
}

/// The same for a command whose sizes are options of its own; `smaller` says which of them to lower.
///
/// # Errors
/// [`Error::Device`] that says what is needed, what is free, and `smaller`; what `planner` says.
pub fn fit_own(dev: &Device, planner: &dyn Fn(&mut Plan) -> Result<()>, smaller: &str) -> Result<Plan> {
    fit_own_beside(dev, planner, smaller, 1)
}

/// The same beside others, as [`fit_beside`].
///
/// # Errors
/// As [`fit_own`].
pub fn fit_own_beside(
    dev: &Device,
    planner: &dyn Fn(&mut Plan) -> Result<()>,
    smaller: &str,
    sharing: usize,
) -> Result<Plan> {
    let mut plan = Plan::dry(dev);
    planner(&mut plan)?;
    match dev.room().map(|room| share(dev, room, sharing)) {
        Some(room) if dev.footprint(&plan_sizes(&plan), room) > room.free_bytes => {
            let what = format!("{}; {smaller}", needs(dev, &plan, room));
            Err(Error::Device { device: dev.name().into(), what })
        }
        _ => Ok(plan),
    }
}

/// The same for weights of `shape` beside all that is held now: a server holds two models while it reads the newer one.
///
/// # Errors
/// As [`fit_own`].
pub fn beside(dev: &Device, shape: &ModelConfig) -> Result<()> {
    let anew = "that is a second model beside the first: start the server anew, or take fewer seats";
    fit_own(dev, &|plan| frozen(shape, plan), anew).map(drop)
}

/// A plan of nothing but numbers.
pub(super) fn planned(dev: &Device, config: &Config, planner: Planner) -> Result<Plan> {
    let mut plan = Plan::dry(dev);
    planner(config, &mut plan)?;
    Ok(plan)
}

fn plan_sizes(plan: &Plan) -> Vec<u64> {
    plan.most().map(|row| row.bytes as u64).collect()
}

fn needs(dev: &Device, plan: &Plan, room: Room) -> String {
    let groups: Vec<_> = plan.groups().iter().map(|(g, bytes)| format!("{g} {}", mib(*bytes as u64))).collect();
    let mapped = if room.mapped {
        format!(", {} as mapped,", mib(dev.footprint(&plan_sizes(plan), room)))
    } else {
        String::new()
    };
    let all = mib(plan.total_bytes() as u64);
    format!("needs {all}{mapped} and {} are free ({})", room.of_total(), groups.join(", "))
}

/// What would fit, each found by planning it.
pub(super) fn advice(dev: &Device, config: &Config, planner: Planner, room: Room) -> Result<String> {
    let bytes =
        |config: &Config| -> Result<u64> { Ok(dev.footprint(&plan_sizes(&planned(dev, config, planner)?), room)) };
    let fits = |config: &Config| -> Result<bool> { Ok(bytes(config)? <= room.free_bytes) };
    let levers = levers(config)?;
    let (mut alone, mut least) = (Vec::new(), config.clone());
    for lever in levers.iter().filter(|l| l.least < l.now) {
        let with = |n: usize| {
            let mut config = config.clone();
            (lever.set)(&mut config, n);
            config
        };
        (lever.set)(&mut least, lever.least);
        if !fits(&with(lever.least))? {
            continue;
        }
        // The most that fits: it does at `low`, it does not at `high`.
        let (mut low, mut high) = (lever.least, lever.now);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if fits(&with(middle))? { low = middle } else { high = middle }
        }
        alone.push(format!("{} = {low} (now {})", lever.key, lever.now));
    }
    let switches = switches(dev, config);
    for (text, set) in &switches {
        let mut with = config.clone();
        set(&mut with);
        if fits(&with)? {
            alone.push(text.to_string());
        }
    }
    if !alone.is_empty() {
        return Ok(format!("it fits with {}", alone.join(", or with ")));
    }
    let mut all: Vec<_> = levers.iter().map(|l| format!("{} = {}", l.key, l.least.min(l.now))).collect();
    let mut best = bytes(&least)?;
    for (text, set) in switches {
        if best <= room.free_bytes {
            break;
        }
        let mut next = least.clone();
        set(&mut next);
        let less = bytes(&next)?;
        if less < best {
            (least, best) = (next, less);
            all.push(text.into());
        }
    }
    if best <= room.free_bytes {
        return Ok(format!("it fits with {} together", all.join(", ")));
    }
    Ok(format!("with the least settings it still needs {}: take a smaller model or a larger device", mib(best)))
}

/// A choice that takes less memory: as it is written, and how it is made.
type Switch = (&'static str, fn(&mut Config));

/// Those that are not made yet, the dearer one last: more work, then other bits.
fn switches(dev: &Device, config: &Config) -> Vec<Switch> {
    let layers: Switch = ("train.checkpoint = \"layers\"", |c| c.train.checkpoint = "layers".into());
    let moments: Switch = ("optim.moments = \"bf16\"", |c| c.optim.moments = "bf16".into());
    let narrow: Switch = ("model.dtype = \"bf16\"", |c| c.model.dtype = "bf16".into());
    let may_narrow = dev.name() != "cpu" && config.model.dtype != "bf16";
    let wide = config.optim.moments == "f32";
    [(layers, config.train.checkpoint == "none"), (moments, wide), (narrow, may_narrow)]
        .into_iter()
        .filter_map(|(switch, may)| may.then_some(switch))
        .collect()
}

/// The plan in one short line: all of it, and its largest group.
pub fn line(dev: &Device, plan: &Plan) -> String {
    let groups = plan.groups();
    let largest = groups.iter().max_by_key(|(_, bytes)| *bytes);
    let largest = largest.map_or(String::new(), |(group, bytes)| format!(", {} of it {group}", mib(*bytes as u64)));
    format!("memory on {}: {}{largest}", dev.name(), mib(plan.total_bytes() as u64))
}
