//! Who collects spans: OTLP over HTTP, as JSON, to where OpenTelemetry's own variables say.
//!
//! The one idea: a thread of its own sends what has ended, some at a time, and waits for nobody else's sake. Spans wait in a
//! bounded channel; a collector that is down or slow loses them, and they are counted. The wire form is by hand because it is one
//! JSON object: OpenTelemetry's crates bring gRPC's besides, twenty in all, and their queue does not tell what it dropped.

use super::metrics::Metrics;
use super::traces::{News, Sampler, Traces, of_value};
use crate::error::{Error, Result};
use prometheus_client::metrics::counter::Counter;
use serde_json::{Value, json};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

/// Spans that wait to be sent; more are dropped.
const QUEUE: usize = 4_096;
/// Spans of one message.
const MOST: usize = 512;
/// How long spans wait for others.
const EVERY: Duration = Duration::from_secs(1);

/// Where spans are sent, and how.
#[derive(Debug, Clone)]
pub struct Collector {
    url: String,
    headers: Vec<(String, String)>,
    timeout: Duration,
    /// What they are of.
    resource: Value,
    sampler: Sampler,
}

impl Collector {
    /// As the variables `OTEL_*` say; none where they name no endpoint, or say not to.
    ///
    /// # Errors
    /// [`Error::Config`] for each that cannot be followed.
    pub fn read(variable: &dyn Fn(&str) -> Option<String>) -> Result<Option<Collector>> {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let off = set("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"))
            || set("OTEL_TRACES_EXPORTER").is_some_and(|value| value == "none");
        let base = || Some(format!("{}/v1/traces", set("OTEL_EXPORTER_OTLP_ENDPOINT")?.trim_end_matches('/')));
        let Some(url) = set("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT").or_else(base).filter(|_| !off) else {
            return Ok(None);
        };
        // The one for traces, where there is one.
        let own = |part: &str| {
            let name = format!("OTEL_EXPORTER_OTLP_TRACES_{part}");
            set(&name).map(|value| (name, value)).or_else(|| {
                let name = format!("OTEL_EXPORTER_OTLP_{part}");
                set(&name).map(|value| (name, value))
            })
        };
        let mut problems = vec![];
        if !["http://", "https://"].iter().any(|head| url.starts_with(head)) {
            problems.push("OTEL_EXPORTER_OTLP_ENDPOINT: want http://HOST:PORT or https://HOST:PORT".into());
        }
        if let Some((name, protocol)) = own("PROTOCOL").filter(|(_, protocol)| protocol == "grpc") {
            problems.push(format!(
                "{name}: `{protocol}` is not spoken; want http/json, which collectors hear on port 4318"
            ));
        }
        let mut held =
            |read: std::result::Result<_, String>| read.map_err(|what| problems.push(what)).unwrap_or_default();
        let timeout =
            held(own("TIMEOUT").map_or(Ok(10_000), |(name, ms)| {
                ms.parse().map_err(|_| format!("{name}: want milliseconds, is `{ms}`"))
            }));
        let sampler = sampler(set("OTEL_TRACES_SAMPLER"), set("OTEL_TRACES_SAMPLER_ARG"));
        let sampler = sampler.map_err(|what| problems.push(what)).ok();
        let (Some(sampler), true) = (sampler, problems.is_empty()) else { return Err(Error::Config { problems }) };
        let mut resource = pairs(&set("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default());
        let service = set("OTEL_SERVICE_NAME");
        if service.is_some() || resource.iter().all(|(key, _)| key != "service.name") {
            resource.retain(|(key, _)| key != "service.name");
            resource.push(("service.name".into(), service.unwrap_or_else(|| "haggle".into())));
        }
        let resource =
            resource.iter().map(|(key, value)| json!({"key": key, "value": of_value(&json!(value))})).collect();
        let headers = own("HEADERS").map(|(_, text)| pairs(&text)).unwrap_or_default();
        Ok(Some(Collector { url, headers, timeout: Duration::from_millis(timeout), resource, sampler }))
    }

    /// Collects from now on.
    pub fn begin(self, metrics: &Metrics) -> Traces {
        let (to, spans) = sync_channel(QUEUE);
        let [sent, dropped] = metrics.spans();
        let traces = Traces::to(to, dropped.clone(), self.sampler);
        std::thread::spawn(move || self.collect(&spans, &sent, &dropped));
        traces
    }

    /// Sends what ends, until nobody can record any more.
    fn collect(&self, spans: &Receiver<News>, sent: &Counter, dropped: &Counter) {
        let config = ureq::Agent::config_builder().timeout_global(Some(self.timeout)).max_redirects(0);
        let agent: ureq::Agent = config.build().into();
        while let Ok(first) = spans.recv() {
            let (batch, flushed) = gathered(first, spans);
            if !batch.is_empty() {
                let n = batch.len() as u64;
                (if self.send(&agent, batch) { sent } else { dropped }).inc_by(n);
            }
            // Who asked may be gone.
            flushed.map(|done| done.try_send(()));
        }
    }

    fn send(&self, agent: &ureq::Agent, spans: Vec<Value>) -> bool {
        let body = json!({"resourceSpans": [{
            "resource": {"attributes": self.resource},
            "scopeSpans": [{"scope": {"name": "haggle", "version": env!("CARGO_PKG_VERSION")}, "spans": spans}],
        }]});
        let request = agent.post(&self.url).header("content-type", "application/json");
        let request = self.headers.iter().fold(request, |request, (name, value)| request.header(name, value));
        request.send(body.to_string()).is_ok_and(|answer| answer.status().is_success())
    }
}

/// A message's spans: as many as come within a moment; and who wants to hear that they were sent.
fn gathered(first: News, spans: &Receiver<News>) -> (Vec<Value>, Option<std::sync::mpsc::SyncSender<()>>) {
    let (until, mut batch, mut next) = (Instant::now() + EVERY, vec![], Ok(first));
    loop {
        match next {
            Ok(News::Span(span)) => batch.push(span),
            Ok(News::Flush(done)) => return (batch, Some(done)),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return (batch, None),
        }
        if batch.len() >= MOST {
            return (batch, None);
        }
        next = spans.recv_timeout(until.saturating_duration_since(Instant::now()));
    }
}

/// `key=value,key=value`, with what stands for itself as `%XX`.
fn pairs(text: &str) -> Vec<(String, String)> {
    let each = text.split(',').filter_map(|pair| pair.split_once('='));
    each.map(|(key, value)| (unescaped(key.trim()), unescaped(value.trim()))).collect()
}

fn unescaped(text: &str) -> String {
    let (mut bytes, mut rest) = (vec![], text.as_bytes());
    while let [first, tail @ ..] = rest {
        let hex = tail
            .get(..2)
            .and_then(|two| std::str::from_utf8(two).ok())
            .and_then(|two| u8::from_str_radix(two, 16).ok());
        let byte = hex.filter(|_| *first == b'%');
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Which traces are recorded, as the standard names it; all that their clients record, and all others, where it is not named.
fn sampler(name: Option<String>, share: Option<String>) -> std::result::Result<Sampler, String> {
    let name = name.unwrap_or_else(|| "parentbased_always_on".into());
    let (kind, heeds_client) = name.strip_prefix("parentbased_").map_or((name.as_str(), false), |kind| (kind, true));
    let share = match (kind, share.as_deref().unwrap_or("1")) {
        ("always_on", _) => 1.0,
        ("always_off", _) => 0.0,
        ("traceidratio", text) => {
            let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
            share.ok_or_else(|| format!("OTEL_TRACES_SAMPLER_ARG: want 0 to 1, is `{text}`"))?
        }
        _ => {
            let what = "want always_on, always_off or traceidratio, or one of them behind parentbased_";
            return Err(format!("OTEL_TRACES_SAMPLER: {what}, is `{name}`"));
        }
    };
    Ok(Sampler { share, heeds_client })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<Collector>> {
        Collector::read(&|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).into()))
    }

    #[test]
    fn the_standard_variables_are_followed() {
        assert!(read(&[]).unwrap().is_none());
        let end = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318/");
        assert!(read(&[end, ("OTEL_SDK_DISABLED", "true")]).unwrap().is_none());
        assert!(read(&[end, ("OTEL_TRACES_EXPORTER", "none")]).unwrap().is_none());
        let plain = read(&[end]).unwrap().unwrap();
        assert_eq!((plain.url.as_str(), plain.timeout.as_secs()), ("http://localhost:4318/v1/traces", 10));
        assert_eq!(plain.sampler, Sampler { share: 1.0, heeds_client: true });
        assert_eq!(plain.resource[0]["value"]["stringValue"], "haggle");
        let all = read(&[
            end,
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://collector/in"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=a%20b, x=%zz"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "9"),
            ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "250"),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=other,region=eu"),
            ("OTEL_SERVICE_NAME", "deals"),
            ("OTEL_TRACES_SAMPLER", "traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.5"),
        ]);
        let all = all.unwrap().unwrap();
        assert_eq!((all.url.as_str(), all.timeout.as_millis()), ("https://collector/in", 250));
        assert_eq!(all.headers, [("api-key".into(), "a b".into()), ("x".into(), "%zz".into())]);
        assert_eq!(
            (&all.resource[0]["key"], &all.resource[1]["value"]["stringValue"]),
            (&json!("region"), &json!("deals"))
        );
        assert_eq!(all.sampler, Sampler { share: 0.5, heeds_client: false });
    }

    #[test]
    fn what_cannot_be_followed_is_refused_by_its_name() {
        let said = read(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "localhost:4317"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
            ("OTEL_TRACES_SAMPLER", "jaeger_remote"),
        ]);
        let said = said.unwrap_err().to_string();
        for name in ["ENDPOINT: want http", "PROTOCOL: `grpc`", "TIMEOUT: want milliseconds", "SAMPLER: want always_on"]
        {
            assert!(said.contains(name), "{said}");
        }
    }
}
