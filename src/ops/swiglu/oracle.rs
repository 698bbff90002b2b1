//! SwiGLU: `h = silu(gate) up`, `silu(g) = g / (1 + exp(-g))`.

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Returns h `[N, F]`; see [`crate::ops::swiglu::swiglu_fwd`].
pub fn swiglu_fwd(gate: &[f64], up: &[f64]) -> Vec<f64> {
    gate.iter().zip(up).map(|(g, u)| g * sigmoid(*g) * u).collect()
}

/// Returns dgate and dup `[N, F]`; see [`crate::ops::swiglu::swiglu_bwd`].
pub fn swiglu_bwd(dh: &[f64], gate: &[f64], up: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let slope = |g: f64| sigmoid(g) + g * sigmoid(g) * (1.0 - sigmoid(g));
    let dgate = (0..dh.len()).map(|i| dh[i] * up[i] * slope(gate[i])).collect();
    let dup = (0..dh.len()).map(|i| dh[i] * gate[i] * sigmoid(gate[i])).collect();
    (dgate, dup)
}
