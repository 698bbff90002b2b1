//! Cases of the noise: the bits are those of `crate::noise`, wherever a counter begins and past its end.

use super::{cost, noise_bits, oracle};
use crate::device::DType;
use crate::error::Result;
use crate::noise::Noise;
use crate::ops::case::Stage;

/// All of them.
///
/// # Errors
/// What an op refuses.
pub fn all(s: &mut Stage) -> Result<()> {
    if s.dtype != DType::F32 && !s.times() {
        return Ok(());
    }
    let odd = [(300, u32::MAX as u64 - 3), (300, u64::MAX - 5), (1, 0)];
    for (n, first) in s.shapes(&[(300, 7)], &odd, |_| [1, 16, 64].map(|n| (1024 * n, 0)).into()) {
        if !s.wants(&["noise_bits"]) {
            continue;
        }
        let (mut bits, noise) = (s.dev.zeros(DType::U64, n)?, Noise::new(5, 6 << 40));
        s.call("noise_bits", "", cost::noise_bits(n), |dev| noise_bits(dev, bits.view_mut(), noise, first))?;
        s.exactly("bits", |dev| {
            let got = dev.download::<u64>(bits.view())?;
            Ok(bits.guard_intact() && got == oracle::noise_bits(noise, first, n))
        })?;
    }
    Ok(())
}
