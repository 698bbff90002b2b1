//! Ranks over NCCL, held to one rank: on a double of the library (`nccl_double/nccl.cpp`) that moves memory of the host, so
//! that the whole path runs on the emulator and the CPU, with ranks that are threads and ranks that are processes started as
//! torchrun, srun and mpirun start them; and what is said of every way in which it fails.
//!
//! Without a C++ compiler (`c++`) the tests say so and are skipped; `HAGGLE_REQUIRE_NCCL=1` makes a skip a failure.

use crate::common::{config_of, metrics};
use haggle::cli::train;
use haggle::config::Config;
use haggle::device::Device;
use haggle::device::nccl::{Joining, Library, Nccl, UniqueId};
use haggle::dist::join::Sum;
use haggle::dist::lanes::Tree;
use haggle::dist::nccl::OverNccl;
use haggle::dist::{Ranks, agree, board};
use haggle::error::{Error, Result};
use haggle::model::config::Experts;
use std::ffi::{c_char, c_int, c_void};
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// The double, built once; none without a compiler.
fn double(test: &str) -> Option<&'static Path> {
    static BUILT: OnceLock<Option<(tempfile::TempDir, PathBuf)>> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("libnccl.so.2");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dist/nccl_double/nccl.cpp");
        compiled(&source, &to).then_some((dir, to))
    });
    if built.is_none() {
        assert!(std::env::var_os("HAGGLE_REQUIRE_NCCL").is_none(), "no C++ compiler builds tests/dist/nccl_double");
        eprintln!("SKIPPED {test}: no C++ compiler (c++) here builds tests/dist/nccl_double/nccl.cpp");
    }
    built.as_ref().map(|(_, file)| file.as_path())
}

fn compiled(source: &Path, to: &Path) -> bool {
    let flags = ["-x", "c++", "-std=c++17", "-shared", "-fPIC", "-O1", "-o"];
    Command::new("c++").args(flags).arg(to).arg(source).status().is_ok_and(|status| status.success())
}

/// A config of seconds, with overrides `key=value`.
fn config(overrides: &[&str]) -> Config {
    let small = [
        "dist.lanes=4",
        "rollout.products_per_step=2",
        "rollout.group_size=2",
        "rollout.max_reply_tokens=48",
        "game.turns=2",
        "grpo.steps=3",
        "grpo.micro_batch_tokens=512",
        "grpo.entropy=0.01",
        "optim.warmup_steps=0",
        "reward.length=0.5",
        "run.checkpoint_every=1",
        "eval.products=1",
        "eval.rollouts=1",
        "eval.best_of=1",
        "threads=1",
    ];
    config_of(&small, overrides)
}

/// Does `act` at each of `world` ranks that are threads.
fn threads<T: Send>(double: &Path, world: usize, device: &str, act: impl Fn(&Ranks) -> T + Sync) -> Vec<T> {
    let library = Arc::new(Library::open(&[double.display().to_string()]).unwrap());
    let id = library.new_id().unwrap();
    let begin = |rank| {
        let (library, limit) = (library.clone(), Duration::from_secs(60));
        let joining = Joining { library, id, rank, world, limit, missing: &|| "?".into() };
        Ranks::linked(OverNccl::thread(Nccl::begin(Device::open(device, 1).unwrap(), joining).unwrap()))
    };
    let (begin, act) = (&begin, &act);
    std::thread::scope(|scope| {
        let each: Vec<_> = (0..world).map(|rank| scope.spawn(move || act(&begin(rank)))).collect();
        each.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

/// The same bits of two runs, each step of which learns something.
fn assert_same_bits(a: &Path, b: &Path) {
    let rows = metrics(a);
    assert!(rows.iter().all(|row| !row.contains("\"grad_norm\":0.0,")), "every step learns something: {rows:?}");
    crate::common::assert_same_bits(a, b);
}

fn same_on_threads(double: &Path, config: &Config, (worlds, sum): (&[usize], Sum), dir: &Path) {
    let stop = AtomicBool::new(false);
    let alone = dir.join("alone");
    train::train(config, &alone, false, &stop, &mut |_| ()).unwrap();
    for world in worlds {
        let run = dir.join(world.to_string());
        let told = threads(double, *world, &config.device, |ranks| {
            let ranks = &ranks.clone().summing(sum).unwrap();
            train::train_ranked(ranks, config, &run, false, &stop, &mut |_| ()).map(|finished| {
                ranks.finish();
                finished.step
            })
        });
        told.into_iter().for_each(|step| assert_eq!(step.unwrap(), config.grpo.steps as u64));
        assert_same_bits(&alone, &run);
    }
}

#[test]
fn one_two_and_four_ranks_over_nccl_give_the_bits_of_no_ranks_on_the_emulated_gpu() {
    let Some(double) = double("one_two_and_four_ranks_over_nccl_give_the_bits_of_no_ranks_on_the_emulated_gpu") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let base = crate::support::small_model::base_in(&dir.path().join("model"), None);
    let small = [&*base, "device=emu", "rollout.max_reply_tokens=6", "game.turns=1", "model.dtype=bf16"];
    same_on_threads(double, &config(&small), (&[1, 2, 4], Sum::Tree), dir.path());
}

#[test]
fn one_two_and_four_ranks_over_nccl_give_the_bits_of_no_ranks_on_the_cpu() {
    let Some(double) = double("one_two_and_four_ranks_over_nccl_give_the_bits_of_no_ranks_on_the_cpu") else { return };
    let dir = tempfile::tempdir().unwrap();
    same_on_threads(double, &config(&[]), (&[1, 2, 4], Sum::Tree), dir.path());
}

#[test]
fn weights_in_shards_over_nccl_give_the_bits_of_no_ranks_on_the_emulated_gpu() {
    let Some(double) = double("weights_in_shards_over_nccl_give_the_bits_of_no_ranks_on_the_emulated_gpu") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let base = crate::support::small_model::base_in(&dir.path().join("model"), None);
    let small =
        [&*base, "device=emu", "rollout.max_reply_tokens=6", "game.turns=1", "model.dtype=bf16", "grpo.steps=2"];
    let config = config(&[&small[..], &["dist.shard=weights"]].concat());
    same_on_threads(double, &config, (&[4], Sum::Tree), dir.path());
}

#[test]
fn experts_spread_over_nccl_give_the_bits_of_no_ranks_on_the_emulated_gpu() {
    let Some(double) = double("experts_spread_over_nccl_give_the_bits_of_no_ranks_on_the_emulated_gpu") else { return };
    let dir = tempfile::tempdir().unwrap();
    let experts = Experts { count: 4, active: 2, intermediate_size: 16, normalise: true };
    let base = crate::support::small_model::base_in(&dir.path().join("model"), Some(experts));
    let small = [&*base, "device=emu", "rollout.max_reply_tokens=6", "game.turns=1", "model.dtype=bf16"];
    let config = config(&[&small[..], &["dist.shard=weights", "dist.experts=spread"]].concat());
    same_on_threads(double, &config, (&[2], Sum::Tree), dir.path());
}

#[test]
fn nccl_sums_where_it_is_asked_to_and_of_two_ranks_it_has_no_choice() {
    let Some(double) = double("nccl_sums_where_it_is_asked_to_and_of_two_ranks_it_has_no_choice") else { return };
    let of = |i: usize, rank: usize| (i as f32 * 0.37 + rank as f32).sin();
    let in_order = |i: usize| ((of(i, 0) + of(i, 1)) + of(i, 2)) + of(i, 3);
    let in_tree = |i: usize| (of(i, 0) + of(i, 1)) + (of(i, 2) + of(i, 3));
    let n = 100_003;
    assert!((0..n).any(|i| in_order(i) != in_tree(i)), "the orders differ, or nothing is proven");
    threads(double, 4, "emu", |ranks| {
        let (ranks, dev) = (ranks.clone().summing(Sum::Nccl).unwrap(), ranks.device().unwrap());
        for cuts in [cuts_even(n, 4), cuts_odd(n, 4)] {
            let mut branch = dev.upload(&(0..n).map(|i| of(i, ranks.rank())).collect::<Vec<f32>>()).unwrap();
            ranks.reduce("sums", &dev, (Tree::Runs, branch.view_mut()), &cuts, &mut []).unwrap();
            let got = dev.to_vec::<f32>(branch.view());
            assert!(cuts[ranks.rank()].clone().all(|i| got[i].to_bits() == in_order(i).to_bits()));
            assert!(branch.guard_intact());
        }
        ranks.finish();
    });
    // a + b is b + a.
    let dir = tempfile::tempdir().unwrap();
    let config = config(&["dist.shard=gradients", "grpo.steps=2"]);
    same_on_threads(double, &config, (&[2], Sum::Nccl), dir.path());
    let refused = |args: &[&str], parts: &[&str]| {
        crate::support::cli::haggle(dir.path(), &[&["train", "--set", "dist.sum=nccl"], args].concat())
            .refused(2, parts)
    };
    refused(&[], &["dist.sum: nccl adds for ranks that meet over NCCL", "set tree"]);
    refused(&["--set", "dist.transport=mpi"], &["dist.sum", "dist.transport"]);
}

#[test]
fn bytes_of_the_host_and_views_of_any_length_arrive_whole() {
    let Some(double) = double("bytes_of_the_host_and_views_of_any_length_arrive_whole") else { return };
    let (world, of) = (4, |from: usize, to: usize, n: usize| vec![(17 * from + to) as u8 ^ n as u8; n]);
    // Of the sizes some are more than a round takes, some none.
    let sizes = |from: usize, to: usize| [0, 1, 3, 4097, 3 << 20][(from + 2 * to) % 5];
    threads(double, world, "emu", |ranks| {
        let (me, dev) = (ranks.rank(), ranks.device().unwrap());
        let told = ranks.tell("pieces", (0..world).map(|to| of(me, to, sizes(me, to))).collect()).unwrap();
        let want: Vec<Vec<u8>> = (0..world).map(|from| of(from, me, sizes(from, me))).collect();
        assert!(told == want, "rank {me}");
        let told = ranks.gather("bytes", &of(me, 0, 5_000_000 * me)).unwrap();
        assert!(told == (0..world).map(|from| of(from, 0, 5_000_000 * from)).collect::<Vec<_>>(), "rank {me}");
        for n in [0, 1, 5, 4_000, 100_003] {
            for cuts in [cuts_even(n, world), cuts_odd(n, world)] {
                sums_and_shares(ranks, &dev, n, &cuts);
            }
        }
        ranks.finish();
    });
}

fn cuts_even(n: usize, world: usize) -> Vec<Range<usize>> {
    (0..world).map(|rank| n / world * rank..n / world * (rank + 1)).collect()
}

/// Of which the first is empty.
fn cuts_odd(n: usize, world: usize) -> Vec<Range<usize>> {
    (0..world).map(|rank| n * rank * rank / (world * world)..n * (rank + 1) * (rank + 1) / (world * world)).collect()
}

/// Four ranks' numbers summed in the tree, each cut at its rank and then at all.
fn sums_and_shares(ranks: &Ranks, dev: &Device, n: usize, cuts: &[Range<usize>]) {
    let of = |i: usize, rank: usize| (i as f32 * 0.37 + rank as f32).sin();
    let mut branch = dev.upload(&(0..n).map(|i| of(i, ranks.rank())).collect::<Vec<f32>>()).unwrap();
    let own = cuts[ranks.rank()].len();
    let mut held: Vec<_> = (0..3).map(|_| dev.upload(&vec![f32::NAN; own]).unwrap()).collect();
    ranks.reduce("sums", dev, (Tree::Runs, branch.view_mut()), cuts, &mut held).unwrap();
    ranks.share("sums", dev, branch.view_mut(), cuts).unwrap();
    let got = dev.to_vec::<f32>(branch.view());
    for (i, got) in got[..cuts[3].end].iter().enumerate().skip(cuts[0].start) {
        let want = (of(i, 0) + of(i, 1)) + (of(i, 2) + of(i, 3));
        assert_eq!(got.to_bits(), want.to_bits(), "element {i} of {n} at rank {}", ranks.rank());
    }
    assert!(branch.guard_intact() && held.iter().all(|buffer| buffer.guard_intact()));
}

#[test]
fn a_rank_that_sleeps_is_named_by_those_who_wait_and_the_abort_frees_all() {
    let Some(double) = double("a_rank_that_sleeps_is_named_by_those_who_wait_and_the_abort_frees_all") else { return };
    let dir = tempfile::tempdir().unwrap();
    let began = Instant::now();
    let said = threads(double, 4, "emu", |ranks| {
        let ranks = ranks.clone().watched();
        ranks.board(dir.path(), Duration::from_secs(2));
        ranks.phase("rollout");
        ranks.meet("start").unwrap();
        if ranks.rank() == 2 {
            std::thread::sleep(Duration::from_secs(6));
        }
        ranks.meet("gradients").unwrap_err().to_string()
    });
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    let named = format!("collective 2 (gradients) waits 2 s for rank 2 ({}, pid ", agree::host());
    assert!(said.iter().any(|said| said.contains(&named) && said.contains("phase rollout")), "{said:?}");
    let heard = |said: &String| said.contains(&named) || said.contains("aborted") && said.contains("remote process");
    assert!(said.iter().all(heard), "{said:?}");
}

#[test]
fn the_double_says_what_nccl_would_hang_in() {
    let Some(double) = double("the_double_says_what_nccl_would_hang_in") else { return };
    // Rank 1 expects 96 of the 100 numbers that rank 0 has for it.
    let said = threads(double, 2, "emu", |ranks| {
        let dev = ranks.device().unwrap();
        let mut data = dev.upload(&vec![1f32; 300]).unwrap();
        let short = if ranks.rank() == 0 { 100 } else { 96 };
        let cuts = [0..short, short..300];
        ranks.share("weights", &dev, data.view_mut(), &cuts).unwrap_err().to_string()
    });
    let named = |said: &String| said.contains("collective 1 (weights): ") && said.contains("they would hang");
    assert!(said.iter().all(named), "{said:?}");
    // Rank 1 is a collective ahead, of other bytes.
    let said = threads(double, 2, "emu", |ranks| {
        let dev = ranks.device().unwrap();
        let mut data = dev.upload(&vec![1f32; 64]).unwrap();
        let cuts = [0..32, 32..64];
        if ranks.rank() == 0 {
            ranks.share("weights", &dev, data.view_mut(), &cuts).unwrap_err().to_string()
        } else {
            ranks.meet("stop").unwrap_err().to_string()
        }
    });
    assert!(said.iter().all(|said| said.contains("they would hang")), "{said:?}");
    assert_eq!(
        outside_of_a_group(double),
        (5, "ncclSend outside of a group: it waits for a peer that may wait for this rank".into())
    );
}

/// What the library says of a send outside of a group.
fn outside_of_a_group(double: &Path) -> (c_int, String) {
    #[repr(C)]
    struct Blocking(usize, u32, u32, c_int);
    type Init = unsafe extern "C" fn(*mut *mut c_void, c_int, UniqueId, c_int, *mut Blocking) -> c_int;
    type Send = unsafe extern "C" fn(*const c_void, usize, c_int, c_int, *mut c_void, *mut c_void) -> c_int;
    type Last = unsafe extern "C" fn(*mut c_void) -> *const c_char;
    let id = Library::open(&[double.display().to_string()]).unwrap().new_id().unwrap();
    let mut config = Blocking(24, 0xcafe_beef, 21_800, 1);
    let mut comm = std::ptr::null_mut();
    // SAFETY: the double's own functions, as nccl.h has them.
    unsafe {
        let library = libloading::Library::new(double).unwrap();
        assert_eq!(library.get::<Init>("ncclCommInitRankConfig").unwrap()(&mut comm, 1, id, 0, &mut config), 0);
        let code = library.get::<Send>("ncclSend").unwrap()([7u8].as_ptr().cast(), 1, 1, 0, comm, std::ptr::null_mut());
        let last = library.get::<Last>("ncclGetLastError").unwrap()(comm);
        (code, std::ffi::CStr::from_ptr(last).to_str().unwrap().into())
    }
}

/// Ranks that are processes, as a launcher starts them.
struct Processes<'a> {
    double: &'a Path,
    world: usize,
    /// Variables of all.
    vars: Vec<(String, String)>,
    /// Variables of a rank.
    of_rank: fn(usize, usize) -> Vec<(String, String)>,
}

fn named<const N: usize>(vars: [(&str, String); N]) -> Vec<(String, String)> {
    vars.into_iter().map(|(name, value)| (name.to_string(), value)).collect()
}

/// A port that no other rank of these tests has.
fn port() -> u16 {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    (20_000 + (std::process::id() as usize * 37 + 2 * NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000) as u16
}

impl<'a> Processes<'a> {
    /// As torchrun.
    fn torchrun(double: &'a Path, world: usize) -> Processes<'a> {
        let vars = named([
            ("MASTER_ADDR", "127.0.0.1".into()),
            ("MASTER_PORT", port().to_string()),
            ("TORCHELASTIC_USE_AGENT_STORE", "True".into()),
        ]);
        let of_rank = |rank: usize, world: usize| {
            named([
                ("RANK", rank.to_string()),
                ("WORLD_SIZE", world.to_string()),
                ("LOCAL_RANK", rank.to_string()),
                ("LOCAL_WORLD_SIZE", world.to_string()),
            ])
        };
        Processes { double, world, vars, of_rank }
    }

    /// As srun on one node.
    fn srun(double: &'a Path, world: usize) -> Processes<'a> {
        let vars = named([
            ("SLURM_JOB_ID", format!("77{:04}", port() % 10_000)),
            ("SLURM_JOB_NODELIST", "node[01-02]".into()),
            ("SLURM_STEP_ID", "0".into()),
        ]);
        let of_rank = |rank: usize, world: usize| {
            named([
                ("SLURM_PROCID", rank.to_string()),
                ("SLURM_NTASKS", world.to_string()),
                ("SLURM_LOCALID", rank.to_string()),
                ("SLURM_STEP_TASKS_PER_NODE", world.to_string()),
            ])
        };
        Processes { double, world, vars, of_rank }
    }

    fn with(mut self, name: &str, value: impl std::fmt::Display) -> Self {
        self.vars.push((name.into(), value.to_string()));
        self
    }

    fn rank(&self, rank: usize, dir: &Path, args: &[&str]) -> Child {
        let mut command = Command::new(crate::support::cli::binary());
        command.args(args).current_dir(dir).env("HAGGLE_NCCL", self.double).env("NCCL_DOUBLE_DIR", dir);
        command.envs(self.vars.clone()).envs((self.of_rank)(rank, self.world));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn spawn(&self, dir: &Path, args: &[&str]) -> Vec<Child> {
        (0..self.world).map(|rank| self.rank(rank, dir, args)).collect()
    }

    /// What each says once all have ended; who goes on long after another has failed is killed, as launchers do.
    fn ran(&self, dir: &Path, args: &[&str]) -> Vec<Output> {
        let mut all = self.spawn(dir, args);
        let mut failed: Option<Instant> = None;
        while all.iter_mut().any(|child| child.try_wait().unwrap().is_none()) {
            let fails = |child: &mut Child| child.try_wait().unwrap().is_some_and(|status| !status.success());
            if failed.is_none() && all.iter_mut().any(fails) {
                failed = Some(Instant::now());
            }
            if failed.is_some_and(|at| at.elapsed() > Duration::from_secs(30)) {
                all.iter_mut().for_each(|child| drop(child.kill()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        all.into_iter().map(|child| child.wait_with_output().unwrap()).collect()
    }

    /// Asserts that all went well.
    fn done(&self, dir: &Path, args: &[&str]) -> Vec<Output> {
        let all = self.ran(dir, args);
        let well = all.iter().all(|output| output.status.success());
        assert!(well, "{:?}", all.iter().map(errors).collect::<Vec<_>>());
        all
    }

    /// Asserts that the ranks that are begun all fail with one line that has these parts.
    fn refused(&self, dir: &Path, args: &[&str], parts: &[&str]) {
        for output in self.ran(dir, args) {
            let said = errors(&output);
            assert!(!output.status.success() && !said.contains("panicked"), "{:?}: {said}", self.vars);
            assert_eq!(said.trim_end().lines().count(), 1, "{:?}: {said}", self.vars);
            parts.iter().for_each(|part| assert!(said.contains(part), "want `{part}` in: {said}"));
        }
    }
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Writes a config of a run of seconds; the arguments that train by it into `run`.
fn args<'a>(config: &Config, dir: &Path, run: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    fs::write(dir.join("small.toml"), config.to_toml(true)).unwrap();
    [&["train", "--config", "small.toml", "--out", run], more].concat()
}

#[test]
fn processes_as_torchrun_and_srun_start_them_give_the_bits_of_one_in_the_same_groups_at_each() {
    let name = "processes_as_torchrun_and_srun_start_them_give_the_bits_of_one_in_the_same_groups_at_each";
    let Some(double) = double(name) else { return };
    let dir = tempfile::tempdir().unwrap();
    let config = config(&["grpo.steps=2"]);
    let one = crate::support::cli::haggle(dir.path(), &args(&config, dir.path(), "one", &[]));
    assert_eq!(one.code, 0, "{one:?}");
    let log = dir.path().join("groups");
    let four = Processes::torchrun(double, 4).with("NCCL_DOUBLE_LOG", log.display());
    four.done(dir.path(), &args(&config, dir.path(), "four", &[]));
    assert_same_bits(&dir.path().join("one"), &dir.path().join("four"));
    let two = Processes::srun(double, 2);
    two.done(dir.path(), &args(&config, dir.path(), "two", &["--set", "dist.transport=nccl"]));
    assert_same_bits(&dir.path().join("one"), &dir.path().join("two"));
    groups_are_alike(&fs::read_to_string(log).unwrap());
}

/// Every rank came to every group, and gradients and weights went as whole views: no detour through slots of the host.
fn groups_are_alike(log: &str) {
    let of = |rank: usize| log.lines().filter(move |line| line.starts_with(&format!("{rank} "))).count();
    assert!((1..4).all(|rank| of(rank) == of(0)), "{} {} {} {}", of(0), of(1), of(2), of(3));
    let bytes =
        |line: &str| line.split_once(" >1:").and_then(|(_, rest)| rest.split(' ').next()?.parse::<usize>().ok());
    let slot = (4 << 20) / 4;
    let large = log.lines().filter(|line| line.starts_with("0 ")).filter_map(bytes).filter(|bytes| *bytes > 100_000);
    let large: Vec<usize> = large.collect();
    assert!(large.len() >= 4 && large.iter().all(|bytes| *bytes != slot), "{large:?}");
}

#[test]
fn a_process_that_sleeps_is_named_and_the_others_end_with_the_code_of_a_missed_rank() {
    let Some(double) = double("a_process_that_sleeps_is_named_and_the_others_end_with_the_code_of_a_missed_rank")
    else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let config = config(&["grpo.steps=500", "dist.timeout_s=20"]);
    let mut all = Processes::torchrun(double, 2).spawn(dir.path(), &args(&config, dir.path(), "run", &[]));
    let rows = || fs::read_to_string(dir.path().join("run/metrics.jsonl")).map_or(0, |text| text.lines().count());
    let began = Instant::now();
    while rows() < 1 {
        assert!(began.elapsed() < Duration::from_secs(200), "no step within its time");
        std::thread::sleep(Duration::from_millis(20));
    }
    let asleep = all.pop().unwrap();
    assert!(Command::new("kill").args(["-STOP", &asleep.id().to_string()]).status().unwrap().success());
    let output = all.pop().unwrap().wait_with_output().unwrap();
    let said = errors(&output);
    let id = asleep.id();
    assert!(Command::new("kill").args(["-KILL", &id.to_string()]).status().unwrap().success());
    asleep.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(i32::from(board::MISSED)), "{said}");
    let line = said.lines().find(|line| line.contains("haggle: ranks: collective")).unwrap_or_else(|| panic!("{said}"));
    assert!(line.contains(&format!("for rank 1 ({}, pid {id}): last seen in phase ", agree::host())), "{line}");
}

#[test]
fn the_doctor_says_transport_library_and_version_and_holds_the_sum() {
    let Some(double) = double("the_doctor_says_transport_library_and_version_and_holds_the_sum") else { return };
    let dir = tempfile::tempdir().unwrap();
    let words = ["doctor", "--ranks", "--json", "--device", "emu", "--threads", "1"];
    let told = Processes::torchrun(double, 2).done(dir.path(), &words);
    let found: serde_json::Value = serde_json::from_slice(&told[0].stdout).unwrap();
    assert!(told[1].stdout.is_empty());
    assert_eq!(found["ranks"], 2);
    assert_eq!(found["transport"], format!("NCCL 2.32.3 ({})", double.display()));
    assert_eq!(found["sum"], "ok: the bits of one rank, at every rank");
    assert!(found["views, sum and share of 16 MiB"].as_str().unwrap().ends_with("GB/s a rank"), "{found}");
    let Ok(version) = Command::new("mpirun.openmpi").arg("--version").output() else {
        eprintln!("SKIPPED the id that is told over MPI: no mpirun.openmpi is installed");
        return;
    };
    assert!(version.status.success());
    let mut mpirun = Command::new("mpirun.openmpi");
    mpirun.args(["--oversubscribe", "--bind-to", "none", "-n", "2"]).arg(crate::support::cli::binary()).args(words);
    mpirun.args(["--set", "dist.transport=nccl"]).current_dir(dir.path());
    mpirun.envs([("OMPI_ALLOW_RUN_AS_ROOT", "1"), ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")]);
    mpirun.env("HAGGLE_NCCL", double).env("NCCL_DOUBLE_DIR", dir.path());
    let output = mpirun.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}", errors(&output));
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(found["transport"].as_str().unwrap().starts_with("NCCL 2.32.3"), "{found}");
}

#[test]
fn what_is_wrong_with_the_library_or_the_start_is_one_line() {
    let Some(double) = double("what_is_wrong_with_the_library_or_the_start_is_one_line") else { return };
    let dir = tempfile::tempdir().unwrap();
    let config = config(&["dist.timeout_s=3"]);
    let words = args(&config, dir.path(), "run", &[]);
    let refused = |ranks: &Processes, parts: &[&str]| ranks.refused(dir.path(), &words, parts);
    let ranks = || Processes::torchrun(double, 2);
    refused(
        &ranks().with("HAGGLE_NCCL", "/nowhere/libnccl.so"),
        &["no NCCL library", "/nowhere/libnccl.so", "nvidia-nccl-cu13", "HAGGLE_NCCL"],
    );
    refused(&ranks().with("HAGGLE_NCCL", ""), &["2 ranks that meet over NCCL have a GPU each", "--device cuda"]);
    refused(&ranks().with("NCCL_DOUBLE_VERSION", 21_203), &["is NCCL 2.12.3", "2.18.0 or newer"]);
    let why = "no socket in sight";
    refused(
        &ranks().with("NCCL_DOUBLE_INIT", why),
        &["ncclCommInitRankConfig: unhandled system error", "no socket in sight", "NCCL_DEBUG=INFO"],
    );
    refused(&ranks().with("MASTER_PORT", "x"), &["MASTER_PORT=x"]);
    let half = dir.path().join("libhalf.so");
    let source = dir.path().join("half.cpp");
    fs::write(&source, "extern \"C\" int ncclGetVersion(int* v) { *v = 23203; return 0; }").unwrap();
    assert!(compiled(&source, &half));
    refused(&ranks().with("HAGGLE_NCCL", half.display()), &["has no ncclGetUniqueId", "no NCCL library"]);
    // The other rank never comes.
    let lonely = ranks();
    let output = lonely.rank(0, dir.path(), &words).wait_with_output().unwrap();
    let named = "rank 0 of 2 waits 3 s for all to begin: at 127.0.0.1:";
    let missing = format!("of {} rank 1 has not come so far", agree::host());
    assert!(errors(&output).contains(named) && errors(&output).contains(&missing), "{}", errors(&output));
    assert!(!dir.path().join("run").exists(), "nothing is written");
}

#[test]
fn a_collective_that_fails_is_told_with_its_name_and_a_stalled_one_is_ended() {
    let Some(double) = double("a_collective_that_fails_is_told_with_its_name_and_a_stalled_one_is_ended") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let words = ["doctor", "--ranks", "--device", "cpu", "--threads", "1"];
    let failing = Processes::torchrun(double, 2).with("NCCL_DOUBLE_FAIL", "1:3").ran(dir.path(), &words);
    let said: Vec<String> = failing.iter().map(errors).collect();
    assert!(
        said[1].contains("haggle: ranks: collective") && said[1].contains("the double was told to fail here"),
        "{said:?}"
    );
    assert!(said[0].contains("remote process exited") && said[0].contains("rank 1 ended it"), "{said:?}");
    // Rank 1 never gets through a group: both wait, and the watch of each ends its process.
    let config = config(&["dist.timeout_s=2"]);
    let stalled = Processes::torchrun(double, 2).with("NCCL_DOUBLE_STALL", "1:12");
    let stalled = stalled.ran(dir.path(), &args(&config, dir.path(), "run", &[]));
    let code = Some(i32::from(board::MISSED));
    assert!(
        stalled.iter().any(|output| output.status.code() == code),
        "{:?}",
        stalled.iter().map(errors).collect::<Vec<_>>()
    );
    assert!(stalled.iter().all(|output| !output.status.success()));
}

#[test]
fn ranks_that_no_launcher_started_need_no_library() -> Result<(), Error> {
    let ranks = Ranks::alone();
    assert!(ranks.device().is_none());
    let dev = Device::open("cpu", 1)?;
    let mut data = dev.upload(&[1f32])?;
    ranks.share("nothing", &dev, data.view_mut(), std::slice::from_ref(&(0..1)))
}
