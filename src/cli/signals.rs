//! Ctrl-C, SIGTERM and SIGHUP: heard at once in every phase of every command.
//!
//! The one idea: a thread hears the signals, and a command says beforehand what one means: to leave at once with a true line,
//! or, where work can be saved, to finish what cannot be cut and save; the second one leaves then. SIGHUP stays ignored where
//! it was ignored when haggle began, as under nohup; a server takes it as the word to read its model anew.

use super::{INTERRUPTED, out};
use crate::error::{Error, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What is said when a signal ends the program; asked when it comes, so that it is true then.
type LastWords = Box<dyn Fn() -> String + Send>;

struct Phase {
    /// What the first signal says, where it only asks to stop.
    finishing: Option<&'static str>,
    last_words: LastWords,
}

static PHASE: Mutex<Option<Phase>> = Mutex::new(None);
static ASKED: AtomicBool = AtomicBool::new(false);
/// A SIGHUP asks to read anew, and not to stop.
static READS_ANEW: AtomicBool = AtomicBool::new(false);
static RELOAD: AtomicBool = AtomicBool::new(false);

/// Begins to hear the signals: until a command says more, each leaves at once.
///
/// # Errors
/// [`Error::Io`] when they cannot be caught.
pub fn hear() -> Result<()> {
    let all = [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|s| *s != SIGHUP || !is_ignored(SIGHUP));
    let signals = Signals::new(all).map_err(|e| Error::io("SIGINT, SIGTERM, SIGHUP", format!("cannot be caught: {e}")));
    let mut signals = signals?;
    std::thread::spawn(move || signals.forever().for_each(caught));
    Ok(())
}

/// From here on a signal leaves at once; `last_words` says what that leaves behind. One that asked before, and found nothing
/// left to finish, is answered now.
pub fn leaves(last_words: impl Fn() -> String + Send + 'static) {
    *phase() = Some(Phase { finishing: None, last_words: Box::new(last_words) });
    if ASKED.load(Ordering::Relaxed) {
        heard();
    }
}

/// From here on the first signal says `finishing` and sets [`asked`], the second leaves at once.
pub fn finishes(finishing: &'static str, last_words: impl Fn() -> String + Send + 'static) {
    *phase() = Some(Phase { finishing: Some(finishing), last_words: Box::new(last_words) });
}

/// True once a signal has asked a phase that finishes to stop.
pub fn asked() -> &'static AtomicBool {
    &ASKED
}

/// From here on SIGHUP does not end the program: it sets this.
pub fn reloads() -> &'static AtomicBool {
    READS_ANEW.store(true, Ordering::Relaxed);
    &RELOAD
}

fn caught(signal: i32) {
    match signal == SIGHUP && READS_ANEW.load(Ordering::Relaxed) {
        true => RELOAD.store(true, Ordering::Relaxed),
        false => heard(),
    }
}

fn phase() -> MutexGuard<'static, Option<Phase>> {
    PHASE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn heard() {
    let phase = phase();
    match &*phase {
        Some(Phase { finishing: Some(line), .. }) if !ASKED.swap(true, Ordering::Relaxed) => {
            out::note(&format!("\nhaggle: {line} (once more leaves at once)"));
        }
        other => {
            let words = other.as_ref().map_or_else(|| "stopped".into(), |phase| (phase.last_words)());
            out::note(&format!("\nhaggle: {words}"));
            std::process::exit(INTERRUPTED.into());
        }
    }
}

/// True where the kernel ignores a signal for us: asked for by whoever started haggle.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}
