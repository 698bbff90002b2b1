//! The page of `haggle serve` in headless Chromium: a deal with the keyboard alone, in light and dark, on a desk and on a phone,
//! without a console error or a finding of axe-core. Skipped where `tools/install-browser` was not run.

#![allow(clippy::unwrap_used)]

mod cli_common;
mod serve_common;

use serve_common::Server;
use std::path::Path;
use std::process::Command;

#[test]
fn a_deal_is_made_with_the_keyboard_alone_without_errors_or_barriers() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(root.join("target"), Into::into);
    let (python, axe) =
        (target.join("browser/bin/python"), target.join("browser/axe/node_modules/axe-core/axe.min.js"));
    if !python.is_file() || !axe.is_file() {
        eprintln!("SKIPPED: no browser in {}; run tools/install-browser", target.join("browser").display());
        return;
    }
    let server = Server::start(&[]);
    let said = Command::new(python).arg(root.join("tests/page.py")).arg(&server.url).arg(axe).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    assert_eq!((out.trim(), said.status.success()), ("held", true), "{err}");
}
