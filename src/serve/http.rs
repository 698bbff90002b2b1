//! Routes and limits, from the first connection to the last.

use super::connections;
use super::deal::{routes as deal, turn};
use super::keys::Keys;
use super::metrics::Metrics;
use super::openai;
use super::progress::{Progress, Trouble};
use super::rates::Rates;
use super::refusal::Refusal;
use super::reload::Reloads;
use super::traces::{Span, Traces};
use super::worker::Order;
use super::{Model, Shared};
use crate::error::{Error, Result};
use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue};
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use std::hash::{BuildHasher, RandomState};
use std::io::Write;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::timeout::RequestBodyTimeoutLayer;

/// How often it is looked whether the server is to stop.
const LOOK: Duration = Duration::from_millis(20);
/// Threads for what takes a while or waits for the disk.
const ASIDE: usize = 32;
/// How long answers that are computed may take to be read when the server stops.
const GRACE: Duration = Duration::from_secs(5);

/// What a request may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of a body.
    pub body_bytes: usize,
    /// From the request to the last token of its answer.
    pub timeout: Duration,
    /// Requests a minute of each key, of all where there are none; 0 bounds none.
    pub a_minute: u32,
    /// Write a line of JSON for each request to stderr.
    pub log: bool,
    /// For the head of a request, and between two pieces of its body.
    pub read: Duration,
}

/// Serves until `stop` is set and what runs is done. New requests are refused from then on.
///
/// # Errors
/// [`Error::Io`] when the socket fails.
pub fn listen(
    socket: TcpListener,
    model: Arc<Model>,
    orders: SyncSender<Order>,
    progress: Arc<Progress>,
    metrics: Arc<Metrics>,
    traces: Traces,
    reloads: Arc<Reloads>,
    keys: Keys,
    limits: Limits,
    stop: &'static AtomicBool,
) -> Result<()> {
    let rates = Arc::new(Rates::new(limits.a_minute, keys.len().max(1)));
    let shared = Shared { model, orders, progress, metrics, traces, reloads, keys: Arc::new(keys), rates, limits };
    let failed = |e: std::io::Error| Error::io("the server's socket", e);
    let threads = std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 4).clamp(1, 4));
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.enable_all().worker_threads(threads).max_blocking_threads(ASIDE).build().map_err(failed)?;
    runtime.block_on(async {
        socket.set_nonblocking(true).map_err(failed)?;
        let socket = tokio::net::TcpListener::from_std(socket).map_err(failed)?;
        let progress = shared.progress.clone();
        let closed = drained(progress.clone(), stop);
        let (read, routes) = (shared.limits.read, routes(shared));
        tokio::select! {
            () = connections::serve(socket, routes, read, closed) => {}
            // Who does not read what is there for him does not keep the server.
            () = async { drained(progress, stop).await; tokio::time::sleep(GRACE).await } => {}
        }
        Ok(())
    })?;
    runtime.shutdown_timeout(LOOK);
    Ok(())
}

/// Waits for `stop`, refuses new requests from then on, and ends when nothing waits or runs.
async fn drained(progress: Arc<Progress>, stop: &'static AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        tokio::time::sleep(LOOK).await;
    }
    progress.drain();
    while progress.is_busy() {
        tokio::time::sleep(LOOK).await;
    }
}

fn routes(shared: Shared) -> Router {
    let limits = shared.limits;
    Router::new()
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .route("/v1/products", get(products))
        .route("/openapi.json", get(openapi))
        .route("/v1/models", get(openai::models))
        .route("/v1/chat/completions", post(openai::chat))
        .route("/v1/completions", post(openai::completions))
        .route("/tokenize", post(openai::tokenize))
        .route("/v1/negotiations", post(deal::create).get(deal::list))
        .route("/v1/negotiations/{id}", get(deal::get))
        .route("/v1/negotiations/{id}/messages", post(turn::message))
        .route("/v1/negotiations/{id}/close", post(deal::close))
        .route("/admin/reload", post(reload))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(shared.clone(), guard))
        // Everyone may ask whether it is well, and see the page.
        .route("/health", get(health))
        .route("/", get(page))
        .layer(DefaultBodyLimit::max(limits.body_bytes))
        .layer(RequestBodyTimeoutLayer::new(limits.read))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn_with_state(shared.clone(), noted))
        .with_state(shared)
}

/// Lets pass who holds a key, and says the limits of bodies in the shape of all refusals.
async fn guard(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let authorization = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let Some(key) = shared.keys.admitted(authorization) else {
        let what = "want a key of this server in the header `Authorization: Bearer KEY`";
        return Refusal::new(StatusCode::UNAUTHORIZED, what).with_code("invalid_api_key").into_response();
    };
    if request.method() == Method::POST
        && let Err(seconds) = shared.rates.take(key)
    {
        return Refusal::too_often(seconds).into_response();
    }
    let answer = next.run(request).await;
    let is_json =
        answer.headers().get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    match answer.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            let what = format!("the body is larger than {} bytes", shared.limits.body_bytes);
            Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, what).with_code("body_too_large").into_response()
        }
        status if status.is_client_error() && !is_json => {
            Refusal::new(status, "the body did not arrive").into_response()
        }
        _ => answer,
    }
}

/// The span of a request, by the name of its route; none for probes, which ask all the time.
fn traced(shared: &Shared, request: &Request) -> Span {
    let path = request.extensions().get::<MatchedPath>().map_or("unknown", MatchedPath::as_str);
    if ["/health", "/ready", "/metrics"].contains(&path) {
        return Span::default();
    }
    let method = request.method().as_str();
    let span = shared.traces.request(format!("{method} {path}"), request.headers());
    span.note("http.request.method", method);
    span.note("http.route", path);
    span
}

/// Gives each request a name, its client's or one of ours, and writes a line on it where that is asked for: no key, no words.
async fn noted(State(shared): State<Shared>, mut request: Request, next: Next) -> Response {
    const NAME: &str = "x-request-id";
    let fine = |id: &&str| {
        (1..=128).contains(&id.len()) && id.chars().all(|c| c.is_ascii_alphanumeric() || "-_.:".contains(c))
    };
    let own = request.headers().get(NAME).and_then(|id| id.to_str().ok()).filter(fine).map(String::from);
    let id = own.unwrap_or_else(|| format!("{:016x}", RandomState::new().hash_one(0u64)));
    let (method, path, began) = (request.method().clone(), request.uri().path().to_string(), Instant::now());
    let span = traced(&shared, &request);
    request.extensions_mut().insert(span.clone());
    let mut answer = next.run(request).await;
    let status = answer.status().as_u16();
    span.note("http.response.status_code", status);
    span.note("haggle.request_id", id.as_str());
    shared.metrics.answered(status);
    if let Ok(value) = HeaderValue::from_str(&id) {
        answer.headers_mut().insert(NAME, value);
    }
    if shared.limits.log {
        let at_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        let ms = began.elapsed().as_micros() as f64 / 1e3;
        let mut line = json!({"at_ms": at_ms, "request_id": id, "method": method.as_str(), "path": path, "status": status, "ms": ms});
        if let Some(trace) = span.trace() {
            line["trace_id"] = trace.into();
        }
        // Nobody need listen.
        let _ = std::io::stderr().lock().write_all(format!("{line}\n").as_bytes());
    }
    answer
}

/// `POST /admin/reload`: the newest checkpoint of the model; answered when it serves, or why it does not.
async fn reload(State(shared): State<Shared>) -> Result<Json<Value>, Refusal> {
    if let Some(trouble) = shared.progress.trouble() {
        return Err(Refusal::of_trouble(trouble));
    }
    let heard = shared.reloads.ask().await;
    let n = heard.map_err(|_| Refusal::of_trouble(Trouble::Draining))??;
    Ok(Json(json!({"object": "reload", "model": shared.model.name, "reloads": n})))
}

/// Counts and times.
async fn metrics(State(shared): State<Shared>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(CONTENT_TYPE, kind)], shared.metrics.text(&shared.progress)).into_response()
}

/// What there is to bargain over.
async fn products(State(shared): State<Shared>) -> Json<Value> {
    Json(json!({"object": "list", "data": shared.model.products}))
}

/// The page where a person bargains; it asks for a key where the server does.
async fn page() -> Response {
    let own = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'";
    ([(CONTENT_SECURITY_POLICY, own), (CONTENT_TYPE, "text/html; charset=utf-8")], include_str!("page.html"))
        .into_response()
}

/// What it speaks, for programs.
async fn openapi() -> Response {
    ([(CONTENT_TYPE, "application/json")], include_str!("openapi.json")).into_response()
}

/// Well while work moves.
async fn health(State(shared): State<Shared>) -> Response {
    match shared.progress.trouble() {
        None => Json(json!({"status": "ok", "steps": shared.progress.steps()})).into_response(),
        Some(trouble) => (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"status": trouble.name()}))).into_response(),
    }
}

/// Whether a request would be taken in.
async fn ready(State(shared): State<Shared>) -> Response {
    let running = shared.progress.running.load(Ordering::Relaxed);
    let waiting = shared.progress.waiting.load(Ordering::Relaxed);
    let (status, word) = match shared.progress.trouble() {
        None => (StatusCode::OK, "ready"),
        Some(trouble) => (StatusCode::SERVICE_UNAVAILABLE, trouble.name()),
    };
    let body = json!({"status": word, "seats": shared.model.seats, "running": running, "waiting": waiting, "reloads": shared.reloads.done()});
    (status, Json(body)).into_response()
}

async fn unknown(method: Method, uri: Uri) -> Refusal {
    let what = format!("there is no {method} {}", uri.path());
    Refusal::new(StatusCode::NOT_FOUND, what).with_code("unknown_route")
}

async fn wrong_method(method: Method, uri: Uri) -> Refusal {
    let what = format!("{} takes no {method}", uri.path());
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, what).with_code("wrong_method")
}

fn panicked(_: Box<dyn std::any::Any + Send>) -> Response {
    let what = "a bug in haggle; the server's log has a line on it";
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, what).into_response()
}
