//! Segments of 512 keys: rows that see no more keep the bits they had before there were segments; of rows that see more,
//! training, prefill and decode have the same bits, on however many blocks a row is walked; all are near the oracle.

use crate::support::attn::{Case, parts_of};
use crate::support::*;
use haggle::device::record::Kind;
use haggle::device::{Buffer, Device};
use haggle::ops::attn::*;

/// Both sides of the ends of segments, and more than three.
const LENS: [usize; 6] = [511, 512, 513, 1024, 1025, 2000];

/// A hash of bits, by position.
fn hash(bits: impl Iterator<Item = u32>) -> u64 {
    bits.fold(0xcbf2_9ce4_8422_2325, |hash, x| (hash ^ x as u64).wrapping_mul(0x0100_0000_01b3).rotate_left(17))
}

/// Hashes of o, lse, dq of the rows at positions below 512.
fn of_first_segment(case: &Case, dev: &Device) -> [u64; 3] {
    let d_o = normal(case.q.len(), 4);
    let (o, lse) = case.forward(dev);
    let [dq, ..] = case.backward(dev, &d_o, &lse);
    let cu = case.cu();
    let rows: Vec<usize> =
        case.lens.iter().zip(cu).flat_map(|(len, at)| at as usize..at as usize + (*len).min(512)).collect();
    [&o, &lse, &dq].map(|x| {
        let width = x.len() / case.n();
        hash(rows.iter().flat_map(|row| &x[row * width..(row + 1) * width]).map(|x| x.to_bits()))
    })
}

/// Hashes of dk, dv of sequences that have no more rows than 512.
fn of_keys(case: &Case, dev: &Device) -> [u64; 2] {
    let d_o = normal(case.q.len(), 4);
    let (_, lse) = case.forward(dev);
    let [_, dk, dv] = case.backward(dev, &d_o, &lse);
    [dk, dv].map(|x| hash(x.iter().map(|x| x.to_bits())))
}

#[test]
fn rows_of_at_most_512_keys_have_the_bits_they_had_before_segments() {
    let short = || Case::new(&[512, 33, 511], heads(2, 1, 32));
    let long = || Case::new(&[700], heads(2, 1, 32));
    let medium = medium_devices().remove(2).1;
    let hopper = haggle::device::gpu::emu::Emu::new(2).unwrap().with_hopper(true);
    let hopper = Device::Gpu(std::sync::Arc::new(haggle::device::gpu::Gpu::Emu(hopper)));
    let emu = || Device::open("emu", 2).unwrap();
    let wide = || Case::new(&[512, 33], heads(2, 1, 64)).in_bf16();
    let got = [
        ("f32", of_first_segment(&short(), &cpu(2)), of_keys(&short(), &cpu(2))),
        ("f32, long", of_first_segment(&long(), &cpu(2)), [0; 2]),
        ("medium", of_first_segment(&short(), &medium), of_keys(&short(), &medium)),
        ("medium, long", of_first_segment(&long(), &medium), [0; 2]),
        ("bf16", of_first_segment(&short().in_bf16(), &emu()), of_keys(&short().in_bf16(), &emu())),
        ("bf16, long", of_first_segment(&long().in_bf16(), &emu()), [0; 2]),
        ("bf16, Hopper", of_first_segment(&wide(), &hopper), of_keys(&wide(), &hopper)),
    ];
    for (name, rows, keys) in &got {
        println!("(\"{name}\", {rows:#018x?}, {keys:#018x?}),");
    }
    assert_eq!(got, BEFORE);
}

/// As the commit before segments made them; in bf16, as they were made when probabilities there became powers of 2.
const BEFORE: [(&str, [u64; 3], [u64; 2]); 7] = [
    (
        "f32",
        [0x7127_f80b_55f6_30dd, 0xb27f_25fb_0377_3842, 0x86d8_2e46_b18b_d700],
        [0x62b5_eca8_f345_2d47, 0xbb70_e72b_8725_7b88],
    ),
    ("f32, long", [0xd0be_16c6_c232_f564, 0xec2a_7791_7022_fc70, 0x5e76_a90b_92f6_dbf1], [0, 0]),
    (
        "medium",
        [0xb0bc_7f39_28f1_39ba, 0xfd14_31f6_e0fa_f2fe, 0x927a_c9fa_2f56_9e09],
        [0xe107_ab6a_e1ad_75b6, 0x36fa_b71f_d021_05b2],
    ),
    ("medium, long", [0xef1d_cbeb_6891_0827, 0x9591_1f7b_3aee_ef7b, 0xfdd6_51f5_75ce_dd8f], [0, 0]),
    (
        "bf16",
        [0xb144_9d67_02cf_cfad, 0x269b_e7bb_7d3d_fd38, 0xd1ed_a609_3c2d_df1c],
        [0x6884_b587_b455_b967, 0x8ae7_88e8_8aed_0c25],
    ),
    ("bf16, long", [0x3f7c_c95f_45ac_9883, 0x2772_dc0d_c058_03b4, 0x0257_bce8_8c80_8b82], [0, 0]),
    (
        "bf16, Hopper",
        [0x3e37_080a_f16b_f80e, 0x73d1_c065_46fd_99d0, 0x58a2_6960_1b27_4167],
        [0x21f4_f12f_940f_2def, 0x8487_17ed_043f_53ef],
    ),
];

/// Sequences in pages, to decode rows of.
struct Pages<'a> {
    dev: &'a Device,
    case: &'a Case,
    k: Buffer,
    v: Buffer,
    table: Buffer,
    max_pages: usize,
}

impl<'a> Pages<'a> {
    fn new(dev: &'a Device, case: &'a Case) -> Pages<'a> {
        let max_pages = case.lens.iter().max().unwrap().div_ceil(CHUNK);
        let n_pages = max_pages * case.lens.len();
        let table = dev.upload(&(0..n_pages as i32).rev().collect::<Vec<_>>()).unwrap();
        let mut all = Pages { dev, case, k: case.pages(dev, n_pages), v: case.pages(dev, n_pages), table, max_pages };
        let rows: Vec<Row> = case.lens.iter().enumerate().flat_map(|(s, len)| (0..*len).map(move |p| (s, p))).collect();
        let (seq, pos) = all.at(&rows);
        let at = Paged { seq: seq.view(), pos: pos.view(), table: all.table.view(), max_pages, longest: 0 };
        let (k, v) = (case.up(dev, &case.k), case.up(dev, &case.v));
        kv_append(dev, k.view(), v.view(), at, all.k.view_mut(), all.v.view_mut(), case.heads).unwrap();
        all
    }

    fn at(&self, rows: &[Row]) -> (Buffer, Buffer) {
        let up = |x: Vec<i32>| self.dev.upload(&x).unwrap();
        (up(rows.iter().map(|row| row.0 as i32).collect()), up(rows.iter().map(|row| row.1 as i32).collect()))
    }

    /// These rows of a tensor of the packed batch.
    fn of(&self, x: &[f32], rows: &[Row]) -> Vec<f32> {
        let (cu, width) = (self.case.cu(), x.len() / self.case.n());
        rows.iter().flat_map(|(s, p)| x[(cu[*s] as usize + p) * width..][..width].to_vec()).collect()
    }

    /// o of these rows, told that they see so many keys at most, in a workspace of so many elements.
    fn decode(&self, rows: &[Row], longest: usize, workspace: usize) -> Vec<f32> {
        let (dev, case) = (self.dev, self.case);
        let ((seq, pos), q) = (self.at(rows), case.up(dev, &self.of(&case.q, rows)));
        let at =
            Paged { seq: seq.view(), pos: pos.view(), table: self.table.view(), max_pages: self.max_pages, longest };
        let (mut o, mut parts) = (case.poisoned(dev, q.len()), parts_of(dev, workspace));
        let (k, v, to) = (self.k.view(), self.v.view(), o.view_mut());
        attn_decode(dev, q.view(), k, v, at, to, parts.view_mut(), case.heads).unwrap();
        assert!(parts.guard_intact());
        case.take(dev, &o)
    }

    /// With the workspace the op asks for.
    fn decode_in_room(&self, rows: &[Row]) -> Vec<f32> {
        let longest = rows.iter().map(|row| row.1 + 1).max().unwrap();
        self.decode(rows, longest, attn_decode_workspace(self.dev, rows.len(), longest, self.case.heads))
    }
}

/// Sequence and position.
type Row = (usize, usize);

/// The last rows of each sequence, and those at the ends of its segments.
fn edges(case: &Case) -> Vec<Row> {
    let near = |p: usize| p % SEGMENT < 2 || p % SEGMENT > SEGMENT - 3;
    let of = |(s, len): (usize, &usize)| {
        let len = *len;
        (0..len).filter(move |p| near(*p) || p + 3 > len).map(move |p| (s, p)).collect::<Vec<_>>()
    };
    case.lens.iter().enumerate().flat_map(of).collect()
}

/// In one, three and all of its head's sizes: what a fragment holds, and rows of it on both sides of a segment's end.
fn shapes(dims: [usize; 2]) -> Vec<Case> {
    vec![Case::new(&LENS, heads(1, 1, dims[0])), Case::new(&[1030, 512], heads(6, 2, dims[1]))]
}

fn decode_is_training(dev: &Device, name: &str, case: &Case) {
    let (o, _) = case.forward(dev);
    let pages = Pages::new(dev, case);
    let rows = edges(case);
    let dims = |n: usize| [n, case.heads.q, case.heads.dim];
    let same = |what: &str, rows: &[Row], got: &[f32]| {
        same("attn_decode", &format!("{name}, {what}"), &dims(rows.len()), &pages.of(&o, rows), got);
    };
    same("edges together", &rows, &pages.decode_in_room(&rows));
    for row in rows.iter().step_by(3) {
        same("a row alone", &[*row], &pages.decode_in_room(&[*row]));
    }
    let backwards: Vec<Row> = rows.iter().rev().copied().collect();
    same("edges backwards", &backwards, &pages.decode_in_room(&backwards));
    same("without a workspace", &rows, &pages.decode(&rows, 2048, 0));
    same("told of more keys than there are", &rows, &pages.decode(&rows, 4096, 1 << 20));
    let (s, len) = case.lens.iter().copied().enumerate().max_by_key(|(_, len)| *len).unwrap();
    // A prompt's rows: on as many blocks as segments, on fewer, on one.
    for (first, n) in [(500, 20), (len.saturating_sub(500), 500), (0, len)] {
        let rows: Vec<Row> = (first..len.min(first + n)).map(|p| (s, p)).collect();
        same(&format!("{n} rows from {first} on"), &rows, &pages.decode_in_room(&rows));
    }
}

#[test]
fn decode_and_prefill_have_the_bits_of_training_on_the_cpu() {
    let mut all = vec![("cpu".to_string(), cpu(2))];
    all.extend(medium_devices().into_iter().skip(1).step_by(2));
    for (name, dev) in all {
        shapes([32, 16]).iter().for_each(|case| decode_is_training(&dev, &name, case));
    }
}

#[test]
fn decode_and_prefill_have_the_bits_of_training_on_kernels() {
    for (name, dev) in kernel_devices().into_iter().skip(1).step_by(2) {
        for case in shapes([32, 64]) {
            decode_is_training(&dev, &name, &case);
            decode_is_training(&dev, &format!("{name}, bf16"), &case.in_bf16());
        }
    }
}

#[test]
fn kernels_have_the_bits_of_the_cpu_and_any_vector_width_and_number_of_threads_has_them() {
    let case = Case::new(&LENS, heads(2, 1, 16));
    let d_o = normal(case.q.len(), 4);
    let (o, lse) = case.forward(&cpu(1));
    let d = case.backward(&cpu(1), &d_o, &lse);
    let kernels = kernel_devices().into_iter().skip(2).step_by(2);
    for (name, dev) in devices().into_iter().skip(1).step_by(2).chain(kernels) {
        let got = case.forward(&dev);
        same("attn_fwd", &name, &case.o_dims(), &o, &got.0);
        same("attn_fwd lse", &name, &case.o_dims()[..2], &lse, &got.1);
        let got = case.backward(&dev, &d_o, &lse);
        (0..3).for_each(|i| same("attn_bwd", &name, &[d[i].len()], &d[i], &got[i]));
    }
}

/// The floors of `ops::attn::cases`, but for dk and dv in f32, which were measured here: their sums are chains over the
/// queries, up to 4000 of a key.
#[test]
fn rows_of_several_segments_are_near_the_oracle() {
    let (f32s, bf16s) = ([1.1e-6, 5.1e-7, 1.3e-6, 2.9e-6], [2.7e-3, 1.8e-7, 5.1e-3, 5.1e-3]);
    let long = || Case::new(&LENS, heads(2, 1, 16));
    let narrow = Case::new(&[513, 1025], heads(2, 1, 32)).in_bf16();
    for (dev, case, floors) in
        [(cpu(2), long(), f32s), (kernel_device(), long(), f32s), (kernel_device(), narrow, bf16s)]
    {
        let [of_o, of_lse, of_q, of_kv] = floors;
        let (o, lse) = case.forward(&dev);
        let (q, k, v, cu) = (wide(&case.q), wide(&case.k), wide(&case.v), case.cu());
        let seqs = Sequences::apart(&cu);
        let (want_o, want_lse) = oracle::attn_fwd(&q, &k, &v, seqs, case.heads);
        near("attn_fwd o", &case.o_dims(), &want_o, &o, of_o);
        near("attn_fwd lse", &case.o_dims()[..2], &want_lse, &lse, of_lse);
        let d_o = normal(case.q.len(), 4);
        let d_o = if case.is_bf16 { floats(&round(&d_o)) } else { d_o };
        let [dq, dk, dv] = case.backward(&dev, &d_o, &lse);
        let (want_q, want_k, want_v) = oracle::attn_bwd(&wide(&d_o), &q, &k, &v, seqs, case.heads);
        near("attn_bwd dq", &case.o_dims(), &want_q, &dq, of_q);
        near("attn_bwd dk", &case.kv_dims(), &want_k, &dk, of_kv);
        near("attn_bwd dv", &case.kv_dims(), &want_v, &dv, of_kv);
    }
}

/// The second segment is worth nothing beside the first, and the other way round.
#[test]
fn segments_whose_keys_lie_far_apart_are_merged_without_overflow() {
    for (low, high) in [(-400.0, 400.0), (400.0, -400.0)] {
        let mut case = Case::new(&[1100], heads(1, 1, 4));
        case.q.fill(1.0);
        for (row, k) in case.k.chunks_mut(4).enumerate() {
            k.fill(if row < SEGMENT { low } else { high });
        }
        let (q, k, v, cu) = (wide(&case.q), wide(&case.k), wide(&case.v), case.cu());
        let (want, _) = oracle::attn_fwd(&q, &k, &v, Sequences::apart(&cu), case.heads);
        for dev in [cpu(1), kernel_device()] {
            near("attn_fwd o", &case.o_dims(), &want, &case.forward(&dev).0, 4e-7);
        }
    }
}

/// What was said of it was wrong: its o must not be one of some of its keys.
#[test]
fn a_row_that_sees_more_keys_than_was_said_is_right_or_nan() {
    let case = Case::new(&[1100], heads(2, 1, 32));
    for (case, dev) in [(case, kernel_device()), (Case::new(&[1100], heads(2, 1, 32)).in_bf16(), kernel_device())] {
        let (o, _) = case.forward(&dev);
        let pages = Pages::new(&dev, &case);
        let rows = [(0, 300), (0, 700), (0, 1099)];
        let got = pages.decode(&rows, 1024, 1 << 20);
        same("attn_decode", "rows as said", &[2, 2, 32], &pages.of(&o, &rows[..2]), &got[..128]);
        assert!(got[128..].iter().all(|x| x.is_nan()));
        same("attn_decode", "on one block", &[1, 2, 32], &pages.of(&o, &rows[2..]), &pages.decode(&rows[2..], 1, 0));
    }
}

/// Whether rows have one segment or several, which their last block merges.
#[test]
fn short_rows_are_one_launch() {
    let dev = kernel_device();
    let case = Case::new(&[600], heads(2, 1, 32));
    let pages = Pages::new(&dev, &case);
    let launches = |rows: &[Row], longest, workspace| {
        dev.start_recording(16).unwrap();
        pages.decode(rows, longest, workspace);
        let kernels = dev.stop_recording().unwrap().events;
        kernels.iter().filter(|e| e.kind == Kind::Kernel).map(|e| e.name).collect::<Vec<_>>()
    };
    let room = attn_decode_workspace(&dev, 3, 600, case.heads);
    assert!(room > 0 && attn_decode_workspace(&dev, 3, 512, case.heads) == 0);
    assert_eq!(launches(&[(0, 511), (0, 3)], 512, room), ["attn_decode_f32_d32"]);
    assert_eq!(launches(&[(0, 599)], 600, 0), ["attn_decode_f32_d32"]);
    assert_eq!(launches(&[(0, 599), (0, 3)], 600, room), ["attn_decode_f32_d32"]);
}
