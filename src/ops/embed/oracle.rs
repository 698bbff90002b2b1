//! Rows by index: `x_n = table[ids_n]`.

/// Returns x `[N, C]`; see [`crate::ops::embed::embed_fwd`].
pub fn embed_fwd(ids: &[i32], table: &[f64], dim: usize) -> Vec<f64> {
    ids.iter().flat_map(|id| &table[*id as usize * dim..][..dim]).copied().collect()
}

/// Returns dtable `[V, C]`; see [`crate::ops::embed::embed_bwd`].
pub fn embed_bwd(ids: &[i32], dx: &[f64], vocab: usize, dim: usize) -> Vec<f64> {
    let mut dtable = vec![0.0; vocab * dim];
    for (n, id) in ids.iter().enumerate() {
        (0..dim).for_each(|i| dtable[*id as usize * dim + i] += dx[n * dim + i]);
    }
    dtable
}

/// Returns y `[N]`; see [`crate::ops::embed::add`].
pub fn add(x: &[f64], y: &[f64]) -> Vec<f64> {
    x.iter().zip(y).map(|(x, y)| y + x).collect()
}

/// Returns y `[N]`; see [`crate::ops::embed::scale`].
pub fn scale(x: &[f64], factor: f64) -> Vec<f64> {
    x.iter().map(|x| factor * x).collect()
}
