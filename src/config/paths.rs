//! Paths in a config and on the command line: any bytes, a home, one rule for what is relative.
//!
//! The one idea: a config is text and a path is bytes, so a path that is no text is said as a `file://` URL, and read back from
//! it. A relative path starts at the working directory, wherever it is written; a leading `~/` is the home; the config that a
//! run keeps holds absolute paths alone, so that it means the same from anywhere.

use super::Config;
use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

const URL: &str = "file://";

/// A path as text: itself, or a `file://` URL when it is not UTF-8 or begins like one.
pub fn spelled(path: &Path) -> String {
    match path.to_str() {
        Some(text) if !text.starts_with(URL) => text.into(),
        _ => {
            let whole = std::path::absolute(path).unwrap_or_else(|_| path.into());
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/_.-~".contains(&byte);
            let letter = |byte: &u8| if plain(*byte) { char::from(*byte).into() } else { format!("%{byte:02X}") };
            URL.chars().map(String::from).chain(whole.as_os_str().as_bytes().iter().map(letter)).collect()
        }
    }
}

/// True where a seller is an address and no folder.
pub fn is_address(text: &str) -> bool {
    text.starts_with("http://") || text.starts_with("https://")
}

/// The path that a text says.
pub fn place(text: &str) -> PathBuf {
    let Some(mut rest) = text.strip_prefix(URL).map(str::as_bytes) else { return PathBuf::from(text) };
    let mut bytes = Vec::new();
    while let [first, more @ ..] = rest {
        let hex = |at: usize| more.get(at).and_then(|digit| char::from(*digit).to_digit(16));
        match (first, hex(0), hex(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high * 16 + low) as u8);
                rest = &more[2..];
            }
            _ => {
                bytes.push(*first);
                rest = more;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

/// The path that a user wrote: a `file://` URL is read, a leading `~/` is the home.
///
/// # Errors
/// What to write instead.
pub fn written(text: &OsStr) -> Result<PathBuf, String> {
    let path = match text.to_str() {
        Some(text) if text.starts_with(URL) && !text[URL.len()..].starts_with('/') => {
            return Err(format!("`{text}` names another machine; write file:/// and an absolute path"));
        }
        Some(text) => place(text),
        None => PathBuf::from(text),
    };
    let first = path.iter().next().map(OsStr::as_bytes).unwrap_or_default();
    match (first, path.strip_prefix("~")) {
        (_, Ok(below)) => {
            let home = std::env::home_dir().filter(|home| home.is_absolute());
            let home = home.ok_or("`~` is the home, and HOME is not set; write the whole path")?;
            Ok(if below.as_os_str().is_empty() { home } else { home.join(below) })
        }
        ([b'~', ..], _) if path.iter().count() > 1 => {
            let name = String::from_utf8_lossy(first);
            Err(format!("`{name}/` is the home of another user, which is not looked up; write the whole path"))
        }
        _ => Ok(path),
    }
}

impl Config {
    /// Makes every path absolute; names (`embedded`, `base`, `auto`) and a server's address stay.
    pub fn rooted(&mut self) {
        let paths: [(&mut String, &[&str]); 5] = [
            (&mut self.products.path, &["embedded"]),
            (&mut self.model.base, &["embedded"]),
            (&mut self.model.seller, &["embedded", "base"]),
            (&mut self.model.adapter_base, &["auto", "embedded"]),
            (&mut self.run.out, &["auto"]),
        ];
        for (text, names) in paths {
            if !names.contains(&text.as_str())
                && !is_address(text)
                && let Ok(path) = std::path::absolute(place(text))
            {
                *text = spelled(&path);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(bytes: &[u8]) -> &Path {
        Path::new(OsStr::from_bytes(bytes))
    }

    #[test]
    fn paths_of_any_bytes_are_said_and_read_back() {
        for bytes in [&b"/a/b c"[..], b"/r\xe9sum\xe9/100%/x", b"/caf\xc3\xa9", b"/\xff\n?#", b"rel/ative", b"/%41"] {
            let text = spelled(path(bytes));
            assert_eq!(place(&text), path(bytes), "{text}");
            let config = format!("[products]\npath = {}\n", toml_edit::Value::from(text.as_str()));
            let read = Config::parse("c", &config, &[]).unwrap();
            assert_eq!(place(&read.products.path), path(bytes), "{text}");
        }
        assert_eq!(spelled(path(b"/r\xe9 s")), "file:///r%E9%20s");
        assert_eq!(place(&spelled(path(b"r\xe9"))), std::path::absolute(path(b"r\xe9")).unwrap());
        assert_eq!(place("file:///a%2fb%zz%e"), Path::new("/a/b%zz%e"));
    }

    #[test]
    fn a_leading_tilde_is_the_home_and_no_other_is() {
        let home = std::env::home_dir().unwrap();
        let written = |text: &str| written(OsStr::new(text));
        assert_eq!(written("~/a/b").unwrap(), home.join("a/b"));
        assert_eq!(written("~").unwrap(), home);
        for same in ["./~/a", "a/~/b", "a~", "~a", "/~/x", "-", "embedded"] {
            assert_eq!(written(same).unwrap(), Path::new(same));
        }
        assert!(written("~root/a").unwrap_err().contains("`~root/` is the home of another user"));
        assert!(written("file://host/a").unwrap_err().contains("file:///"));
        assert_eq!(super::written(OsStr::from_bytes(b"~/\xe9")).unwrap(), home.join(path(b"\xe9")));
        let config = Config::parse("c", "[model]\nbase = \"~/m\"\n[run]\nout = \"~/r\"\n", &[]).unwrap();
        assert_eq!((place(&config.model.base), place(&config.run.out)), (home.join("m"), home.join("r")));
    }

    #[test]
    fn a_config_that_is_kept_names_absolute_paths_and_the_names_it_has() {
        let mut config = Config::default();
        config.rooted();
        assert_eq!(config, Config::default());
        // A folder may have the name that means something for another key.
        config.products.path = "base".into();
        config.model.base = "base".into();
        config.model.seller = "./embedded".into();
        config.run.out = "runs/x".into();
        config.rooted();
        let here = std::env::current_dir().unwrap();
        let found = [&config.products.path, &config.model.base, &config.model.seller, &config.run.out];
        for (found, want) in found.into_iter().zip(["base", "base", "embedded", "runs/x"]) {
            assert_eq!(place(found), here.join(want));
        }
    }
}
