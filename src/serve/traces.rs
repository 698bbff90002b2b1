//! Traces: where a request's time went, as spans in OpenTelemetry's form.
//!
//! The one idea: a span ends with its last holder. A request's is held by its handler, by its order in the queue and by its stream,
//! and none of them need know of the others. Spans hold names, counts and times: no words, no key, no limit, no negotiation's id.
//! Where nobody collects them there are none, and holding none costs nothing.

use axum::http::HeaderMap;
use prometheus_client::metrics::counter::Counter;
use serde_json::{Value, json};
use std::hash::{BuildHasher, RandomState};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long the last spans may take to be collected when the server ends.
const GRACE: Duration = Duration::from_secs(2);
/// Longest `tracestate` that is handed on, in bytes.
const LONGEST_STATE: usize = 512;

/// What goes to whoever collects.
pub enum News {
    /// A span that has ended, in OTLP's JSON.
    Span(Value),
    /// Send what there is, and say when it is done.
    Flush(SyncSender<()>),
}

/// Which traces are recorded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampler {
    /// Share of those that begin here, 0 to 1.
    pub share: f64,
    /// A client's own decision is kept.
    pub heeds_client: bool,
}

/// Where spans go.
#[derive(Debug)]
struct Outlet {
    to: SyncSender<News>,
    dropped: Counter,
}

/// The traces of a server; none of them where nobody collects.
#[derive(Debug, Clone, Default)]
pub struct Traces(Option<(Arc<Outlet>, Sampler)>);

/// A span that is open, or none. Clones are the same span.
#[derive(Clone, Default)]
pub struct Span(Option<Arc<Open>>);

struct Open {
    outlet: Arc<Outlet>,
    trace: String,
    /// What its vendor's systems say of it, handed on.
    state: String,
    id: String,
    parent: String,
    name: String,
    /// The moments by which others are told: all of a trace by one.
    clock: (Instant, SystemTime),
    began: Instant,
    /// When it ended, where that is not now.
    ended: Option<Instant>,
    notes: Mutex<Vec<(&'static str, Value)>>,
}

impl Traces {
    /// Spans go to `to`; what it has no room for is counted in `dropped`.
    pub fn to(to: SyncSender<News>, dropped: Counter, sampler: Sampler) -> Traces {
        Traces(Some((Arc::new(Outlet { to, dropped }), sampler)))
    }

    /// The span of a request, in its client's trace where it brings one; none where it is not to be recorded.
    pub fn request(&self, name: String, headers: &HeaderMap) -> Span {
        let Some((outlet, sampler)) = &self.0 else { return Span::default() };
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let client = header("traceparent").and_then(of_client);
        let trace = client.map_or_else(|| digits() + &digits(), |(trace, ..)| trace.into());
        let taken = match client {
            Some((.., taken)) if sampler.heeds_client => taken,
            _ => is_taken(&trace, sampler.share),
        };
        if !taken {
            return Span::default();
        }
        let state = header("tracestate").filter(|state| client.is_some() && state.len() <= LONGEST_STATE);
        let clock = (Instant::now(), SystemTime::now());
        Span(Some(Arc::new(Open {
            outlet: outlet.clone(),
            trace,
            state: state.unwrap_or_default().into(),
            id: digits(),
            parent: client.map(|(_, parent, _)| parent.into()).unwrap_or_default(),
            name,
            clock,
            began: clock.0,
            ended: None,
            notes: Mutex::default(),
        })))
    }

    /// Waits a moment for what was recorded to be collected.
    pub fn flush(&self) {
        let Some((outlet, _)) = &self.0 else { return };
        let (done, heard) = sync_channel(1);
        // Where there is no room for the question, there is no hope of an answer.
        if outlet.to.try_send(News::Flush(done)).is_ok() {
            let _ = heard.recv_timeout(GRACE);
        }
    }
}

impl Span {
    /// A part of it, from now to its last holder's end.
    pub fn part(&self, name: &'static str) -> Span {
        Span(self.0.as_ref().map(|whole| Arc::new(whole.part(name, Instant::now(), None))))
    }

    /// A part of it that is over.
    pub fn past(&self, name: &'static str, from: Instant, to: Instant, notes: &[(&'static str, Value)]) {
        if let Some(whole) = &self.0 {
            *whole.part(name, from, Some(to)).notes.get_mut().unwrap_or_else(PoisonError::into_inner) = notes.to_vec();
        }
    }

    /// Notes a count or a name.
    pub fn note(&self, key: &'static str, value: impl Into<Value>) {
        if let Some(open) = &self.0 {
            open.notes.lock().unwrap_or_else(PoisonError::into_inner).push((key, value.into()));
        }
    }

    /// The trace that it is part of, as 32 hexadecimal digits.
    pub fn trace(&self) -> Option<&str> {
        self.0.as_ref().map(|open| open.trace.as_str())
    }
}

impl Open {
    fn part(&self, name: &'static str, began: Instant, ended: Option<Instant>) -> Open {
        Open {
            outlet: self.outlet.clone(),
            trace: self.trace.clone(),
            state: self.state.clone(),
            id: digits(),
            parent: self.id.clone(),
            name: name.into(),
            clock: self.clock,
            began,
            ended,
            notes: Mutex::default(),
        }
    }

    /// Nanoseconds since 1970, as OTLP's JSON has numbers of 64 bits.
    fn at(&self, moment: Instant) -> String {
        let (here, there) = self.clock;
        let since = there.duration_since(UNIX_EPOCH).unwrap_or_default() + moment.saturating_duration_since(here);
        since.saturating_sub(here.saturating_duration_since(moment)).as_nanos().to_string()
    }

    /// The span of a whole request, as `SpanKind` counts: a server's; else an inner one.
    fn kind(&self) -> u8 {
        if self.name.contains(' ') { 2 } else { 1 }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let notes = std::mem::take(self.notes.get_mut().unwrap_or_else(PoisonError::into_inner));
        let failed =
            notes.iter().any(|(key, value)| *key == "http.response.status_code" && value.as_u64() >= Some(500));
        let attributes: Vec<Value> =
            notes.iter().map(|(key, value)| json!({"key": key, "value": of_value(value)})).collect();
        let span = json!({
            "traceId": self.trace, "spanId": self.id, "parentSpanId": self.parent, "traceState": self.state,
            "name": self.name, "kind": self.kind(), "startTimeUnixNano": self.at(self.began),
            "endTimeUnixNano": self.at(self.ended.unwrap_or_else(Instant::now)), "attributes": attributes,
            "status": {"code": if failed { 2 } else { 0 }},
        });
        if self.outlet.to.try_send(News::Span(span)).is_err() {
            self.outlet.dropped.inc();
        }
    }
}

/// A value as OTLP's JSON tells its type.
pub fn of_value(value: &Value) -> Value {
    match value {
        Value::Bool(is) => json!({"boolValue": is}),
        Value::Number(n) if n.is_f64() => json!({"doubleValue": n}),
        Value::Number(n) => json!({"intValue": n.to_string()}),
        Value::String(text) => json!({"stringValue": text}),
        other => json!({"stringValue": other.to_string()}),
    }
}

/// The trace and the span of a `traceparent`, and whether it is recorded; none of one that W3C's Trace Context calls invalid.
fn of_client(text: &str) -> Option<(&str, &str, bool)> {
    let is_hex =
        |part: &str, len: usize| part.len() == len && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let is_some = |part: &str, len: usize| is_hex(part, len) && part.bytes().any(|b| b != b'0');
    let mut parts = text.trim().split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    // A later version may hold more.
    let whole = is_hex(version, 2) && version != "ff" && (version != "00" || parts.next().is_none());
    let fine = whole && is_some(trace, 32) && is_some(span, 16) && is_hex(flags, 2);
    fine.then(|| (trace, span, u8::from_str_radix(flags, 16).is_ok_and(|flags| flags & 1 == 1)))
}

/// Whether a trace is among this share of all, by its id alone: each server that sees it says the same.
fn is_taken(trace: &str, share: f64) -> bool {
    let low = u64::from_str_radix(&trace[16..], 16).unwrap_or_default() >> 8;
    (low as f64) < share * (1u64 << 56) as f64
}

/// 64 random bits, not all of them zero, as hexadecimal digits.
fn digits() -> String {
    format!("{:016x}", RandomState::new().hash_one(0u64).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    #[test]
    fn a_client_is_read_as_the_standard_has_it() {
        let good = |text: &str| of_client(text).map(|(.., taken)| taken);
        assert_eq!(of_client(&format!("00-{TRACE}-{SPAN}-01")), Some((TRACE, SPAN, true)));
        assert_eq!(good(&format!("00-{TRACE}-{SPAN}-00")), Some(false));
        assert_eq!(good(&format!("cc-{TRACE}-{SPAN}-03-what-comes")), Some(true));
        for bad in [
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("00-{TRACE}-{SPAN}"),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-{}-{SPAN}-01", "0".repeat(32)),
            format!("00-{TRACE}-{}-01", "0".repeat(16)),
            format!("00-{TRACE}-{SPAN}-1"),
            String::new(),
        ] {
            assert_eq!(of_client(&bad), None, "{bad}");
        }
    }

    #[test]
    fn a_share_of_all_traces_is_taken() {
        let taken = |share: f64| (0..1_000).filter(|_| is_taken(&(digits() + &digits()), share)).count();
        assert_eq!([taken(0.0), taken(1.0)], [0, 1_000]);
        assert!((150..350).contains(&taken(0.25)));
    }

    #[test]
    fn a_span_ends_with_its_last_holder_and_what_has_no_room_is_counted() {
        let (to, heard) = sync_channel(2);
        let dropped = Counter::default();
        let traces = Traces::to(to, dropped.clone(), Sampler { share: 1.0, heeds_client: true });
        let mut headers = HeaderMap::new();
        headers.insert("traceparent", format!("00-{TRACE}-{SPAN}-00").parse().unwrap());
        assert_eq!(traces.request("GET /".into(), &headers).trace(), None, "its client does not record it");
        headers.insert("traceparent", format!("00-{TRACE}-{SPAN}-01").parse().unwrap());
        let span = traces.request("GET /".into(), &headers);
        let other = span.clone();
        drop(span);
        assert!(heard.try_recv().is_err());
        other.note("http.response.status_code", 503);
        let now = Instant::now();
        other.past("queue", now, now + Duration::from_nanos(1_500), &[("haggle.tokens", json!(3))]);
        drop(other.part("lost"));
        drop(other);
        let spans: Vec<Value> = heard
            .try_iter()
            .filter_map(|news| match news {
                News::Span(span) => Some(span),
                News::Flush(_) => None,
            })
            .collect();
        assert_eq!((spans.len(), dropped.get()), (2, 1));
        let ns = |name: &str| spans[0][name].as_str().unwrap().parse::<u128>().unwrap();
        assert_eq!(ns("endTimeUnixNano") - ns("startTimeUnixNano"), 1_500);
        assert_eq!(spans[0]["attributes"], json!([{"key": "haggle.tokens", "value": {"intValue": "3"}}]));
    }
}
