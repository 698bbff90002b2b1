//! Every kernel at a model's shapes, beside what this machine can do at most.
//!
//! `cargo bench --bench kernels -- [STEM]... [--device NAME] [--threads N] [--dtype f32|bf16] [--shape NAME] [--json FILE]`:
//! median and spread of each op whose stem contains a STEM, its GFLOP/s or GB/s (of what it is bound by), and the share of
//! the roofline whose ceilings were measured just before; at the end the median with cold caches. `--json` appends one object a row; shapes: tiny, qwen3-0.6b, or
//! a config.json. The CPU device computes in f32 only.

use haggle::device::{DType, Device};
use haggle::ops::case::Shapes;
use haggle::profile::kernels::{Bench, Timed};
use haggle::profile::work::shape;
use std::io::Write;

fn main() {
    if let Err(e) = run() {
        eprintln!("kernels: {e}");
        std::process::exit(1);
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (mut only, mut threads, mut json) = (Vec::new(), 0, None);
    let (mut device, mut dtype, mut model) = ("cpu".to_string(), DType::F32, "tiny".to_string());
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or(format!("{arg}: a value must follow"));
        match arg.as_str() {
            "--bench" => {}
            "--threads" => threads = value()?.parse()?,
            "--device" => device = value()?,
            "--dtype" => {
                dtype = match value()?.as_str() {
                    "f32" => DType::F32,
                    "bf16" => DType::Bf16,
                    other => return Err(format!("--dtype {other}: use f32 or bf16").into()),
                }
            }
            "--shape" => model = value()?,
            "--json" => json = Some(std::fs::OpenOptions::new().create(true).append(true).open(value()?)?),
            _ => only.push(arg),
        }
    }
    let dev = Device::open(&device, threads)?;
    let mut trouble = None;
    let mut show = |row: &Timed| {
        println!("{}", row.line());
        if let Some(Err(e)) = json.as_mut().map(|json| writeln!(json, "{}", row.json())) {
            trouble.get_or_insert(e);
        }
    };
    let mut bench = Bench::open(dev, dtype, Shapes::from(&shape(&model)?), only, &mut show)?;
    let peaks = bench.peaks();
    println!("copy {:.1} GB/s, multiply-add {:.1} GFLOP/s", peaks.bytes_per_s / 1e9, peaks.flops_per_s / 1e9);
    println!("{}", Timed::head());
    bench.run()?;
    trouble.map_or(Ok(()), |e| Err(e.into()))
}
