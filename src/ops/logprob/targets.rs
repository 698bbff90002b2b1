//! The tokens that rows of the head take, and those that they are scored among.

use crate::device::View;
use crate::error::Result;
use crate::ops::want;

/// The taken token of each row, and which tokens a row is scored among.
#[derive(Clone, Copy)]
pub struct Targets<'a> {
    /// `[N]` i32.
    pub ids: View<'a>,
    /// None where every row is scored among all tokens: nothing is read then.
    pub masks: Option<Masks<'a>>,
}

/// Which tokens rows are scored among, a mask for any number of rows. A row's mask allows its target.
#[derive(Clone, Copy)]
pub struct Masks<'a> {
    /// `[U, ceil(V / 32)]` i32: bit v % 32 of word v / 32 is 1 where token v may come, as [`crate::ops::sample::sample_mask`] has it.
    pub words: View<'a>,
    /// `[N]` i32: the mask of each row, -1 for a row that is scored among all tokens.
    pub of: View<'a>,
}

impl<'a> From<View<'a>> for Targets<'a> {
    fn from(ids: View<'a>) -> Targets<'a> {
        Targets { ids, masks: None }
    }
}

impl Targets<'_> {
    /// `Ok` when the masks are of N rows and V tokens.
    pub(super) fn check(&self, op: &'static str, vocab: usize) -> Result<()> {
        let Some(masks) = self.masks else { return Ok(()) };
        want(op, "masks [U, ceil(V / 32)]", masks.words.len() % vocab.div_ceil(32), 0)?;
        want(op, "mask of rows [N]", masks.of.len(), self.ids.len())
    }

    /// Bytes of the masks.
    pub(super) fn mask_bytes(&self) -> usize {
        self.masks.map_or(0, |masks| 4 * (masks.words.len() + masks.of.len()))
    }
}

/// 2^100.
const FAR: f32 = 1.267_650_6e30;

/// The raw logit of a token that may not come. Scaled it is about -2^100, so far below any logit that its exp is 0: maxima and
/// sums have the bits that they have with -inf, as sampling puts it there, and 0 times its distance is 0 in the entropy and in
/// gradients, where -inf would give NaN.
pub(super) fn forbidden(inv_temperature: f32) -> f32 {
    (-FAR / inv_temperature).max(f32::MIN)
}
