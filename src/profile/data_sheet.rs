//! What NVIDIA's data sheets say of a card: the ceilings of a roofline that do not flatter our own kernels.
//!
//! Dense rates, without sparsity, at the boost clock of the sheet. Source: NVIDIA, "H100 Tensor Core GPU" (2023), "H200
//! Tensor Core GPU" (2024), "A100 Tensor Core GPU" (2021), data sheets.

use crate::device::DType;

/// A card's rates.
pub struct Sheet {
    /// A part of the name that the driver gives it; the first that fits counts.
    name: &'static str,
    /// Bytes a second of its memory.
    pub bytes_per_s: f64,
    /// FLOPs a second of bf16 tensor cores, f32 added up.
    pub bf16: f64,
    /// FLOPs a second of f32 outside them.
    pub f32: f64,
}

/// The SXM card, which predictions are of.
pub const H100: Sheet = Sheet { name: "H100 80GB HBM3", bytes_per_s: 3.35e12, bf16: 989.4e12, f32: 66.9e12 };

const SHEETS: [Sheet; 8] = [
    Sheet { name: "H200 NVL", bytes_per_s: 4.8e12, bf16: 835.5e12, f32: 60.0e12 },
    Sheet { name: "H200", bytes_per_s: 4.8e12, bf16: 989.4e12, f32: 66.9e12 },
    Sheet { name: "H100 PCIe", bytes_per_s: 2.04e12, bf16: 756.5e12, f32: 51.2e12 },
    Sheet { name: "H100 NVL", bytes_per_s: 3.94e12, bf16: 835.5e12, f32: 60.0e12 },
    H100,
    Sheet { name: "A100-SXM4-80GB", bytes_per_s: 2.039e12, bf16: 312e12, f32: 19.5e12 },
    Sheet { name: "A100 80GB PCIe", bytes_per_s: 1.935e12, bf16: 312e12, f32: 19.5e12 },
    Sheet { name: "A100-", bytes_per_s: 1.555e12, bf16: 312e12, f32: 19.5e12 },
];

/// Bytes and FLOPs a second of a card by the name that the driver gives it; none of a card that no sheet here is of.
pub fn of_card(name: &str, dtype: DType) -> Option<[f64; 2]> {
    let sheet = SHEETS.iter().find(|sheet| name.contains(sheet.name))?;
    Some([sheet.bytes_per_s, if dtype == DType::Bf16 { sheet.bf16 } else { sheet.f32 }])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_have_the_rates_of_their_own_sheet() {
        let of = |name| of_card(name, DType::Bf16).map(|[bytes, flops]| (bytes / 1e12, flops / 1e12));
        assert_eq!(of("NVIDIA H100 80GB HBM3"), Some((3.35, 989.4)));
        assert_eq!(of("NVIDIA H100 PCIe"), Some((2.04, 756.5)));
        assert_eq!(of("NVIDIA H200"), Some((4.8, 989.4)));
        assert_eq!(of("NVIDIA H200 NVL"), Some((4.8, 835.5)));
        assert_eq!(of("NVIDIA A100-SXM4-40GB"), Some((1.555, 312.0)));
        assert_eq!(of("NVIDIA GeForce RTX 4090"), None);
        assert!(of_card("NVIDIA H100 80GB HBM3", DType::F32).is_some_and(|[_, flops]| flops < 1e14));
    }
}
