//! What a decode step asks of the second-level cache on Hopper, at the shapes of Qwen3-0.6B: little more than its formulas, for
//! one row and for tens of them; and no bank conflict above 2-way.

use crate::support;
use haggle::device::gpu::{Gpu, emu::Emu};
use haggle::device::{DType, Device};
use haggle::model::config::preset;
use haggle::ops::case::Shapes;
use haggle::profile::counters::{Row, count};
use std::sync::Arc;

/// Times the formula's bytes.
const MOST: f64 = 1.3;

/// Rows of what is decoded: "M 16 N 1024 K 2048", "N 64 H 16 ...".
fn rows_of(row: &Row) -> usize {
    let words: Vec<&str> = row.shape.split(' ').collect();
    words[1].parse().unwrap_or_else(|_| panic!("{}: its rows come first", row.shape))
}

/// Calls of the ops whose stems are these, of `rows` at most, that keep nothing for training.
fn calls(dtype: DType, stems: &[&str], rows: usize) -> Vec<Row> {
    let dev = Device::Gpu(Arc::new(Gpu::Emu(Emu::with_seed(2, 0).unwrap().with_hopper(true))));
    let (shapes, mut all) = (Shapes::from(&preset("qwen3-0.6b").unwrap()), vec![]);
    let only: Vec<String> = stems.iter().map(|stem| stem.to_string()).collect();
    count(&dev, dtype, shapes, &only, &mut |row| {
        let decodes = stems.contains(&row.op) && !row.shape.ends_with("kept");
        all.extend((decodes && rows_of(row) <= rows).then(|| row.clone()));
    })
    .unwrap();
    all
}

#[test]
fn a_step_s_products_and_attention_ask_for_little_more_than_their_formulas() {
    if !support::counts(&Emu::with_seed(1, 0).unwrap()) {
        return;
    }
    let products = ["gemm_nt", "gemm_qkv", "gemm_swiglu"];
    let attention = ["attn_step", "attn_decode"];
    // In f32 tens of rows have no tile of their own.
    let all = [(DType::Bf16, &products[..], 64), (DType::F32, &products, 16), (DType::Bf16, &attention, 64)];
    let mut seen = vec![];
    for row in all.into_iter().flat_map(|(dtype, stems, rows)| calls(dtype, stems, rows)) {
        let [asked, _] = row.bytes_of_formula();
        let (kernel, counts) = (row.launch.kernel, &row.launch.counts);
        assert!(asked <= MOST, "{kernel} {}: {asked:.2} times the formula's bytes", row.shape);
        assert!(counts.worst_conflict <= 2, "{kernel} {}: {}-way", row.shape, counts.worst_conflict);
        seen.push(format!("{kernel} {}", row.shape));
    }
    for kernel in [
        "gemm_nt_sm90_16x8_bf16 M 16",
        "gemm_nt_16x8_bf16 M 1 ",
        "gemm_nt_sm90_64x32_bf16 M 64",
        "gemm_nt_few_f32 M 16",
    ] {
        assert!(seen.iter().any(|row| row.starts_with(kernel)), "{kernel}: {seen:#?}");
    }
    for part in
        ["gemm_qkv_normed_sm90", "gemm_swiglu_normed_sm90", "gemm_qkv_normed_f32", "attn_step_bf16", "attn_decode_bf16"]
    {
        assert!(seen.iter().any(|row| row.starts_with(part)), "{part}: {seen:#?}");
    }
}
