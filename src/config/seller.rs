//! The keys of a seller behind a server, and what its address must not hold.

use super::fields::{Bounds, Field, Slot, field};
use super::paths::is_address;
use super::read::Found;
use super::{Config, SellerConfig};

impl SellerConfig {
    /// The model's name; none for the first that the server lists.
    pub fn named(&self) -> Option<String> {
        (self.model != "auto").then(|| self.model.clone())
    }

    pub(super) fn fields(&mut self) -> Vec<Field<'_>> {
        use Bounds::{NotNegative, Positive};
        use Slot::{Count, Real, Text};
        vec![
            field(
                "model",
                "",
                "The model of a seller behind a server; auto is the first it lists.",
                Text(&mut self.model),
            ),
            field(
                "key_env",
                "",
                "The environment variable that holds its key, if it wants one.",
                Text(&mut self.key_env),
            ),
            field("concurrency", "requests", "Requests at a time.", Count(&mut self.concurrency, 1)),
            field("connect_s", "s", "Until a connection stands.", Real(&mut self.connect_s, Positive)),
            field("read_s", "s", "Until an answer begins, and until it ends.", Real(&mut self.read_s, Positive)),
            field(
                "retries",
                "tries",
                "Tries behind a failed request; after the last its episode is void.",
                Count(&mut self.retries, 0),
            ),
            field(
                "backoff_s",
                "s",
                "Before the second try; doubles with each.",
                Real(&mut self.backoff_s, NotNegative),
            ),
            field(
                "failures",
                "requests",
                "Failed requests in a row after which all wait for cooling_s.",
                Count(&mut self.failures, 1),
            ),
            field(
                "cooling_s",
                "s",
                "How long they wait before one goes first.",
                Real(&mut self.cooling_s, NotNegative),
            ),
            field(
                "coolings",
                "waits",
                "Such waits in a row after which the run saves and stops.",
                Count(&mut self.coolings, 0),
            ),
        ]
    }
}

impl Default for SellerConfig {
    fn default() -> SellerConfig {
        SellerConfig {
            model: "auto".into(),
            key_env: "OPENAI_API_KEY".into(),
            concurrency: 16,
            connect_s: 10.0,
            read_s: 120.0,
            retries: 4,
            backoff_s: 0.5,
            failures: 8,
            cooling_s: 15.0,
            coolings: 4,
        }
    }
}

/// Notes what an address must not hold, and what cannot be played against one.
pub(super) fn check(config: &Config, found: &mut Found) {
    if !config.seller.key_env.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        // Whoever writes the key itself here would find it in the run's files.
        found.problem(
            "seller.key_env",
            "is no name of an environment variable; put the key into one and name that here",
        );
    }
    let address = config.model.seller.as_str();
    if !is_address(address) {
        return;
    }
    let rest = address.split_once("://").map_or("", |(_, rest)| rest);
    let host = rest.split('/').next().unwrap_or_default();
    let form = "write it as http://host:8000/v1";
    if host.contains('@') {
        found.problem("model.seller", "an address with a password would be kept in files; put the key into the variable that seller.key_env names");
    } else if host.is_empty() || host.starts_with(':') {
        found.problem("model.seller", &format!("the address names no host; {form}"));
    } else if rest.contains(['?', '#']) || !rest.bytes().all(|byte| byte.is_ascii_graphic()) {
        found.problem("model.seller", &format!("the address holds more than a host and a path; {form}"));
    }
    if config.task.name != "game" {
        let what = format!(
            "a seller behind a server plays the game alone, not `{}`; set task.name = \"game\", or name a folder",
            config.task.name
        );
        found.problem("model.seller", &what);
    }
}
