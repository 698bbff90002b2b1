//! Runs the binary as a user would.
#![allow(dead_code)] // each test file uses a part

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// Options of a run of seconds.
pub const SMALL: [&str; 16] = [
    "--set",
    "rollout.products_per_step=2",
    "--set",
    "rollout.group_size=2",
    "--set",
    "rollout.max_reply_tokens=32",
    "--set",
    "grpo.micro_batch_tokens=512",
    "--set",
    "eval.products=2",
    "--set",
    "eval.rollouts=1",
    "--set",
    "run.checkpoint_every=1",
    "--threads",
    "1",
];

/// What came of a call.
#[derive(Debug)]
pub struct Said {
    /// Exit code.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Said {
    /// Asserts success and returns stdout.
    #[track_caller]
    pub fn done(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.out
    }

    /// Asserts one line on stderr with this code that holds all these parts, and nothing of a panic.
    #[track_caller]
    pub fn refused(self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, code, "{self:?}");
        assert_eq!(self.err.trim_end().lines().count(), 1, "not one line: {}", self.err);
        assert!(self.err.starts_with("haggle: ") && !self.err.contains("panicked"), "{}", self.err);
        for part in parts {
            assert!(self.err.contains(part), "want `{part}` in: {}", self.err);
        }
    }
}

impl Said {
    /// Asserts this code and lines on stderr, one of which holds a part.
    #[track_caller]
    pub fn refused_lines(self, code: i32, part: &str) {
        assert!(self.code == code && self.err.contains(part) && !self.err.contains("panicked"), "{self:?}");
    }
}

/// The binary: that of this build, or `HAGGLE_BIN` where tests run without cargo.
pub fn binary() -> OsString {
    std::env::var_os("HAGGLE_BIN").unwrap_or(env!("CARGO_BIN_EXE_haggle").into())
}

/// A command of the binary in `dir`.
pub fn command(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(args).current_dir(dir);
    command
}

/// Runs `haggle args` in `dir` with nothing on stdin.
pub fn haggle(dir: &Path, args: &[&str]) -> Said {
    haggle_with(dir, args, "")
}

/// The same with text on stdin.
pub fn haggle_with(dir: &Path, args: &[&str], input: &str) -> Said {
    said(command(dir, args), input)
}

/// Runs a command with text on stdin.
pub fn said(mut command: Command, input: &str) -> Said {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A command that reads nothing may be gone already.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    Said {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Two products in the published format, one of each scenario, repeated under other titles until some are held out.
pub fn write_products(folder: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    let record = |i: usize| {
        let lowest = if i % 4 == 3 { "$18.99" } else { "$9.50" };
        serde_json::json!({
            "title": format!("Notebook No. {i}"), "description": "A notebook with lined paper.", "features": "",
            "list_price": "$20.00", "highest_price": "$20.00", "lowest_price": lowest, "average_price": "$15.00",
            "category": "books", "current_price": "$16.00",
        })
    };
    let records: Vec<_> = (0..28).map(record).collect();
    std::fs::write(folder.join("books.json"), serde_json::to_string(&records).unwrap()).unwrap();
}
