//! What a server says no with, in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`.

use super::progress::Trouble;
use crate::error::Error;
use axum::http::header::{HeaderValue, RETRY_AFTER};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// An answer that is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP's status.
    pub status: StatusCode,
    /// What a program may look at.
    pub code: Option<&'static str>,
    /// The field at fault.
    pub param: Option<String>,
    /// One line for a person.
    pub message: String,
    /// Seconds after which it is worth another try.
    pub retry_after: Option<u64>,
}

impl Refusal {
    /// A refusal with this status and message.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Refusal {
        Refusal { status, code: None, param: None, message: message.into(), retry_after: None }
    }

    /// 400: a field holds what it must not.
    pub fn of_field(name: &str, message: impl Into<String>) -> Refusal {
        Refusal { param: Some(name.into()), ..Refusal::new(StatusCode::BAD_REQUEST, message) }
    }

    /// The same with a code.
    pub fn with_code(self, code: &'static str) -> Refusal {
        Refusal { code: Some(code), ..self }
    }

    /// 409: it cannot be done as things stand.
    pub fn conflict(message: impl Into<String>, code: &'static str) -> Refusal {
        Refusal::new(StatusCode::CONFLICT, message).with_code(code)
    }

    /// 429: as many wait as may.
    pub fn full(seconds: u64) -> Refusal {
        let what = "as many requests wait as this server holds; try again, or raise --queue";
        let refusal = Refusal::new(StatusCode::TOO_MANY_REQUESTS, what).with_code("queue_full");
        Refusal { retry_after: Some(seconds), ..refusal }
    }

    /// 429: a key asks more often than it may.
    pub fn too_often(seconds: u64) -> Refusal {
        let what = format!("this key asks more often than it may; again in {seconds} s");
        let refusal = Refusal::new(StatusCode::TOO_MANY_REQUESTS, what).with_code("rate_limit_exceeded");
        Refusal { retry_after: Some(seconds), ..refusal }
    }

    /// 503: the server takes none now.
    pub fn of_trouble(trouble: Trouble) -> Refusal {
        let (what, code) = match trouble {
            Trouble::Draining => ("the server stops: it finishes what runs and takes no more", "draining"),
            Trouble::Stalled => ("the engine has not stepped for a while", "stalled"),
            Trouble::Failing => ("the engine's last steps failed; see the server's log", "failing"),
        };
        Refusal { retry_after: Some(5), ..Refusal::new(StatusCode::SERVICE_UNAVAILABLE, what).with_code(code) }
    }

    /// Whatever the library refused about a request: 400 where the request is at fault, 500 where we are.
    pub fn of_error(error: &Error) -> Refusal {
        let status = match error {
            Error::Config { .. } | Error::Data { .. } => StatusCode::BAD_REQUEST,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Refusal::new(status, error.to_string().replace('\n', "; "))
    }

    /// Its body.
    pub fn body(&self) -> Value {
        let kind = match self.status.as_u16() {
            401 | 403 => "authentication_error",
            429 => "rate_limit_error",
            400..=499 => "invalid_request_error",
            _ => "server_error",
        };
        json!({"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}})
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut headers = HeaderMap::new();
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        (self.status, headers, axum::Json(self.body())).into_response()
    }
}
