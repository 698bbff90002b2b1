//! Paths in commands that a person is told to run: they can be pasted into a POSIX shell as they are.
//!
//! The one idea: a word is bare when no shell reads anything into it, in single quotes when it is text, and made by `printf`
//! when it holds bytes that no terminal pastes (control characters, what is not UTF-8).

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A path as one word of a command line, never taken for an option.
pub fn word(path: &Path) -> String {
    let bytes = path.as_os_str().as_bytes();
    let text = match bytes.first() {
        Some(b'-') => [b"./", bytes].concat(),
        _ => bytes.to_vec(),
    };
    match std::str::from_utf8(&text) {
        Ok(text) if text.chars().any(char::is_control) => printed(text.as_bytes()),
        Ok(text) if !text.is_empty() && text.bytes().all(is_bare) => text.into(),
        Ok(text) => format!("'{}'", text.replace('\'', "'\\''")),
        Err(_) => printed(&text),
    }
}

/// What no shell reads anything into, wherever it stands in a word.
fn is_bare(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_./-+,:@%".contains(&byte)
}

/// A word that `printf` makes; the shell takes line ends off its end, so that one gets a `/` behind it, as directories may.
fn printed(bytes: &[u8]) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"_./-+,:@ ".contains(byte);
    let octal = |byte: &u8| if plain(byte) { char::from(*byte).to_string() } else { format!("\\{byte:03o}") };
    let end = if bytes.ends_with(b"\n") { "/" } else { "" };
    format!("\"$(printf '{}{end}')\"", bytes.iter().map(octal).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    #[test]
    fn plain_paths_stay_as_they_are() {
        for path in ["runs/001", "./a-b_c.d", "/tmp/x+y,z:1@2%3"] {
            assert_eq!(word(Path::new(path)), path);
        }
        assert_eq!(word(Path::new("-x")), "./-x");
        assert_eq!(word(Path::new("./my run")), "'./my run'");
    }

    #[test]
    fn a_shell_reads_every_word_back() {
        let words: [&[u8]; 14] = [
            b"./my run",
            b"a$HOME`id`\"b\\c",
            b"it's",
            b"~",
            b"~/x",
            b"*?[a]",
            b"a;b&c|d>e<f(g){h}!i#j",
            b"=a",
            b"-n",
            b"caf\xc3\xa9 \xe2\x82\xac",
            b"run\xe9",
            b"50%\xff'\\n \"$x\"",
            b"a\nb\t\x1b]0;t\x07",
            b"\xff\xfe",
        ];
        for bytes in words {
            let script = format!("printf %s {}", word(Path::new(OsStr::from_bytes(bytes))));
            let said = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
            let read = said.stdout.strip_prefix(b"./").filter(|_| bytes[0] == b'-').unwrap_or(&said.stdout);
            assert_eq!(read, bytes, "{script}");
            assert_eq!(script.lines().count(), 1, "{script}");
        }
        let script = format!("printf %s {}", word(Path::new("a\n")));
        let said = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
        assert_eq!(said.stdout, b"a\n/");
    }
}
