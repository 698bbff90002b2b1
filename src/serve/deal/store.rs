//! Where negotiations are kept, whichever database it is.
//!
//! The one idea: a round is one transaction, on the disk before it is acknowledged, together with the answer to its idempotency key.
//! It is stored only behind the rounds that were read when it was played, in a negotiation that is still open: of two writers to
//! one, in this process or on another machine, one is told so. A database decides that, never a lock of ours.

use super::super::refusal::Refusal;
use axum::http::StatusCode;

/// The version of the tables, in either database.
pub const VERSION: i64 = 1;
/// Milliseconds that answers to idempotency keys are kept.
pub const KEPT_MS: u64 = 7 * 86_400_000;

/// A round as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Round {
    /// What may be told: see `record.rs`.
    pub public: String,
    /// What the model heard and said, thoughts included.
    pub private: String,
    /// Of `public`.
    pub hash: String,
}

/// A negotiation as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// As JSON.
    pub settings: String,
    /// Milliseconds since 1970.
    pub created_ms: u64,
    /// Whether it takes no more messages.
    pub closed: bool,
    /// In order.
    pub rounds: Vec<Round>,
}

/// A request that may come again: its key, the hash of its body, what it is answered.
#[derive(Debug, Clone, Copy)]
pub struct Once<'a> {
    /// The client's key with the route.
    pub key: &'a str,
    /// Hash of the body.
    pub asked: &'a str,
    /// The answer.
    pub answer: &'a str,
}

/// A database of negotiations. Whatever it refuses, it has stored nothing of it, unless it was lost while it stored.
pub trait Store: Send + Sync {
    /// Stores a new negotiation.
    ///
    /// # Errors
    /// 409 when its idempotency key was answered meanwhile, 500 or 503 when it cannot be stored.
    fn create(&self, id: &str, settings: &str, now_ms: u64, once: Option<Once>) -> Result<(), Refusal>;

    /// Stores round `n` of a negotiation, from 1.
    ///
    /// # Errors
    /// 409 when the negotiation has not `n - 1` rounds or was closed, and when the idempotency key was answered meanwhile; 500 or
    /// 503 when it cannot be stored.
    fn add(&self, id: &str, n: usize, round: &Round, now_ms: u64, once: Option<Once>) -> Result<(), Refusal>;

    /// Closes a negotiation.
    ///
    /// # Errors
    /// 500 or 503 when it cannot be stored.
    fn close(&self, id: &str) -> Result<(), Refusal>;

    /// A negotiation with its rounds.
    ///
    /// # Errors
    /// 404 when there is none, 500 or 503 when it cannot be read.
    fn get(&self, id: &str) -> Result<Kept, Refusal>;

    /// Ids of negotiations, the newest first: at most `most`, those behind `after`.
    ///
    /// # Errors
    /// 500 or 503 when they cannot be read.
    fn list(&self, most: usize, after: Option<&str>) -> Result<Vec<String>, Refusal>;

    /// What a key was answered, where it was: its answer.
    ///
    /// # Errors
    /// 409 when it was asked with another body, 500 or 503 when that cannot be read.
    fn answered(&self, key: &str, asked: &str) -> Result<Option<String>, Refusal>;
}

/// 404: nobody has heard of it.
pub fn unknown(id: &str) -> Refusal {
    let what = format!("there is no negotiation `{}`", id.chars().take(60).collect::<String>());
    Refusal::new(StatusCode::NOT_FOUND, what).with_code("unknown_negotiation")
}

/// 409: another was first.
pub fn overtaken() -> Refusal {
    Refusal::conflict("another message to this negotiation was answered first, or it was closed: read it anew", "busy")
}

/// What a key that was asked before is answered: its answer, where the body is the same.
///
/// # Errors
/// 409 where it is not.
pub fn again(found: Option<(String, String)>, asked: &str) -> Result<Option<String>, Refusal> {
    match found {
        None => Ok(None),
        Some((before, answer)) if before == asked => Ok(Some(answer)),
        Some(_) => Err(Refusal::conflict("this Idempotency-Key was used with another body", "idempotency_key_reused")),
    }
}

/// A version of tables that was found, where this haggle reads it.
///
/// # Errors
/// What to do about a newer one.
pub fn readable(version: i64) -> Result<i64, String> {
    match version > VERSION {
        true => Err(format!("is of version {version}, this haggle reads up to {VERSION}: run the newer one")),
        false => Ok(version),
    }
}
