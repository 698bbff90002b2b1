//! Pages in headless Chromium, where `tools/install-browser` was run.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

/// Runs a script of `tests/` that prints `held` when all is as it should be: `first`, the path of axe-core where the script
/// takes it, then `rest`. Skipped where there is no browser.
#[track_caller]
pub fn holds(script: &str, first: &[&str], rest: &[impl AsRef<OsStr>]) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(root.join("target"), Into::into);
    let (python, axe) =
        (target.join("browser/bin/python"), target.join("browser/axe/node_modules/axe-core/axe.min.js"));
    if !python.is_file() || !axe.is_file() {
        eprintln!("SKIPPED: no browser in {}; run tools/install-browser", target.join("browser").display());
        return;
    }
    let mut command = Command::new(python);
    // The scripts share a module, of which nothing is to be left in the tree.
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    let said = command.arg(root.join("tests").join(script)).args(first).arg(axe).args(rest).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    assert_eq!((out.trim(), said.status.success()), ("held", true), "{err}");
}
