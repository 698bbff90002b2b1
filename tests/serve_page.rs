//! The page of `haggle serve` in headless Chromium: a deal with the keyboard alone, in light and dark, on a desk and on a phone,
//! without a console error or a finding of axe-core. Skipped where `tools/install-browser` was not run.

#![allow(clippy::unwrap_used)]

mod browser_common;
mod cli_common;
mod serve_common;

use serve_common::Server;

#[test]
fn a_deal_is_made_with_the_keyboard_alone_without_errors_or_barriers() {
    let server = Server::start(&[]);
    browser_common::holds("page.py", &[&server.url], &[] as &[&str]);
}
