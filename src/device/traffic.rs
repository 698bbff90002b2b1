//! What crosses the bus, counted: copies to a device and from it, and how often the host waited.
//!
//! Counted on every device alike, so that what a GPU would move is seen without one.

use std::sync::atomic::{AtomicU64, Ordering};

/// Copies and waits since a device was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Copies to the device.
    pub uploads: u64,
    /// Their bytes.
    pub upload_bytes: u64,
    /// Copies from the device.
    pub downloads: u64,
    /// Their bytes.
    pub download_bytes: u64,
    /// Times the host waited for the device: for copies from it, or asked to.
    pub waits: u64,
}

impl Traffic {
    /// What was moved after `before`.
    pub fn since(self, before: Traffic) -> Traffic {
        Traffic {
            uploads: self.uploads - before.uploads,
            upload_bytes: self.upload_bytes - before.upload_bytes,
            downloads: self.downloads - before.downloads,
            download_bytes: self.download_bytes - before.download_bytes,
            waits: self.waits - before.waits,
        }
    }
}

/// The counts of one device.
#[derive(Default)]
pub(super) struct Counters {
    uploads: AtomicU64,
    upload_bytes: AtomicU64,
    downloads: AtomicU64,
    download_bytes: AtomicU64,
    waits: AtomicU64,
}

impl Counters {
    pub fn up(&self, bytes: usize) {
        self.uploads.fetch_add(1, Ordering::Relaxed);
        self.upload_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub fn down(&self, bytes: usize) {
        self.downloads.fetch_add(1, Ordering::Relaxed);
        self.download_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub fn wait(&self) {
        self.waits.fetch_add(1, Ordering::Relaxed);
    }

    pub fn now(&self) -> Traffic {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Traffic {
            uploads: of(&self.uploads),
            upload_bytes: of(&self.upload_bytes),
            downloads: of(&self.downloads),
            download_bytes: of(&self.download_bytes),
            waits: of(&self.waits),
        }
    }
}
