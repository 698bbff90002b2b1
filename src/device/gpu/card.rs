//! The memory of the emulated card, counted, and its faults: a card of any size can be tried, and one that is lost.
//!
//! `HAGGLE_EMU_MIB=N` gives the card N MiB (none: as much as this machine has). `HAGGLE_EMU_FAIL=KERNEL:N` loses the
//! card at the N-th launch of a kernel, as a GPU is lost: that launch returns, copies from the card, the next
//! launch or a wait say so.

use crate::device::Room;
use crate::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes and faults of one emulated card.
#[derive(Default)]
pub struct Card {
    /// Bytes it has; none: no limit.
    total: Option<u64>,
    used: AtomicU64,
    lose_at: Option<(String, u64)>,
    launches: AtomicU64,
    fault: Mutex<Option<String>>,
}

impl Card {
    /// A card of `total` bytes.
    pub(super) fn of(total: u64) -> Card {
        Card { total: Some(total), ..Card::default() }
    }

    /// A card that is lost at the n-th launch of a kernel.
    pub(super) fn losing(kernel: &str, n: u64) -> Card {
        Card { lose_at: Some((kernel.into(), n)), ..Card::default() }
    }

    /// The card that the environment asks for.
    ///
    /// # Errors
    /// [`Error::Device`] naming the variable that cannot be read.
    pub(super) fn from_env() -> Result<Card, Error> {
        let var = |name: &str| std::env::var(name).ok();
        let wrong = |name: &str, text: &str, want: &str| Error::Device {
            device: "emu".into(),
            what: format!("{name}={text}: must be {want}"),
        };
        let mut card = Card::default();
        if let Some(text) = var("HAGGLE_EMU_MIB") {
            let mib = text.parse::<u64>().ok().and_then(|mib| mib.checked_mul(1 << 20));
            card.total = Some(mib.ok_or_else(|| wrong("HAGGLE_EMU_MIB", &text, "a whole number of MiB"))?);
        }
        if let Some(text) = var("HAGGLE_EMU_FAIL") {
            let parts = text.split_once(':').and_then(|(kernel, n)| Some((kernel.to_string(), n.parse().ok()?)));
            card.lose_at = Some(parts.ok_or_else(|| wrong("HAGGLE_EMU_FAIL", &text, "KERNEL:N"))?);
        }
        Ok(card)
    }

    /// What is free of it; none without a limit.
    pub(super) fn room(&self) -> Option<Room> {
        let total = self.total?;
        Some(Room { free_bytes: total.saturating_sub(self.used_bytes()), total_bytes: total, bound: "", mapped: false })
    }

    /// Bytes that buffers hold.
    pub fn used_bytes(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// A share of `bytes`, given back when dropped; none when the card has no more.
    pub(super) fn take(self: &Arc<Card>, bytes: u64) -> Option<Share> {
        let total = self.total.unwrap_or(u64::MAX);
        let fits = |used: u64| used.checked_add(bytes).filter(|used| *used <= total);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).ok()?;
        Some(Share { card: self.clone(), bytes })
    }

    /// Counts a launch; true when the card is lost at it.
    pub(super) fn loses(&self, kernel: &str) -> bool {
        let Some((name, n)) = &self.lose_at else { return false };
        if name != kernel || self.launches.fetch_add(1, Ordering::Relaxed) + 1 != *n {
            return false;
        }
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(format!("the card was lost in launch {n} of {kernel} (HAGGLE_EMU_FAIL)"));
        true
    }

    /// What happened to it, once lost.
    pub(super) fn fault(&self) -> Option<String> {
        self.lose_at.as_ref()?;
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A buffer's share of a card.
pub(in crate::device) struct Share {
    card: Arc<Card>,
    bytes: u64,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.card.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
