//! The page of `haggle serve` in headless Chromium: a deal with the keyboard alone, in light and dark, on a desk and on a phone,
//! without a console error or a finding of axe-core. Skipped where `tools/install-browser` was not run.

use crate::common::Server;

#[test]
fn a_deal_is_made_with_the_keyboard_alone_without_errors_or_barriers() {
    let server = Server::start(&[]);
    crate::support::browser::holds("page.py", &[&server.url], &[] as &[&str]);
}
