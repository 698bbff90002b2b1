//! How often a key may ask.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// A bucket for each key that fills steadily and that a request takes a drop from.
#[derive(Debug)]
pub struct Rates {
    /// Requests a minute; 0 bounds none.
    a_minute: u32,
    /// What is left of each, and when it was looked at.
    buckets: Mutex<Vec<(f64, Instant)>>,
}

impl Rates {
    /// Full buckets for `n` keys.
    pub fn new(a_minute: u32, n: usize) -> Rates {
        Rates { a_minute, buckets: Mutex::new(vec![(f64::from(a_minute), Instant::now()); n]) }
    }

    /// Takes a request of a key.
    ///
    /// # Errors
    /// The seconds until there is one again.
    pub fn take(&self, key: usize) -> Result<(), u64> {
        self.take_at(key, Instant::now())
    }

    fn take_at(&self, key: usize, now: Instant) -> Result<(), u64> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((left, at)) = buckets.get_mut(key).filter(|_| self.a_minute > 0) else { return Ok(()) };
        let (most, a_second) = (f64::from(self.a_minute), f64::from(self.a_minute) / 60.0);
        *left = (*left + now.saturating_duration_since(*at).as_secs_f64() * a_second).min(most);
        *at = now;
        if *left < 1.0 {
            return Err((((1.0 - *left) / a_second).ceil() as u64).max(1));
        }
        *left -= 1.0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_key_has_its_requests_a_minute_and_no_more() {
        let (rates, now) = (Rates::new(30, 2), Instant::now());
        let taken = (0..40).filter(|_| rates.take_at(0, now).is_ok()).count();
        assert_eq!(taken, 30);
        assert_eq!(rates.take_at(0, now), Err(2));
        assert_eq!(rates.take_at(1, now), Ok(()), "another key has its own");
        assert_eq!(rates.take_at(0, now + Duration::from_millis(2_100)), Ok(()));
        assert_eq!(rates.take_at(0, now + Duration::from_millis(2_200)), Err(2));
        let free = Rates::new(0, 1);
        assert!((0..1_000).all(|_| free.take_at(0, now).is_ok()));
    }
}
