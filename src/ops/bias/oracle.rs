//! The bias in plain f64 loops.

/// b in each of `n` rows.
pub fn bias_fwd(b: &[f64], n: usize) -> Vec<f64> {
    b.repeat(n)
}

/// The sum of dy's rows of `f` elements.
pub fn bias_bwd(dy: &[f64], f: usize) -> Vec<f64> {
    let mut db = vec![0.0; f];
    for row in dy.chunks_exact(f) {
        db.iter_mut().zip(row).for_each(|(db, dy)| *db += dy);
    }
    db
}
