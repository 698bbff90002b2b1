//! The records of a product file: a JSON array, JSON lines, objects one behind the other, or one object.
//!
//! The one idea: a file that is no JSON as a whole is read record by record, so that each broken one is named by its number.

use super::record::kind;
use serde_json::Value;

/// A record, or what is wrong with it.
pub(super) type Record = Result<Value, String>;

/// The records of a file's bytes, in order.
///
/// # Errors
/// What is wrong with the file as a whole, in one line.
pub(super) fn read(bytes: &[u8]) -> Result<Vec<Record>, String> {
    let text = decoded(bytes)?.trim();
    let whole = match serde_json::from_str(text) {
        Ok(Value::Array(records)) => return Ok(records.into_iter().map(Ok).collect()),
        Ok(record @ Value::Object(_)) if record.get("title").is_some() => return Ok(vec![Ok(record)]),
        Ok(other) => return Err(format!("want an array of records, got {}", kind(&other))),
        Err(_) if text.is_empty() => return Err("is not JSON: the file is empty; want an array of records".into()),
        Err(e) => e,
    };
    let lines = || text.lines().filter(|line| !line.trim().is_empty());
    let pieces: Vec<&str> = match text.strip_prefix('[') {
        Some(inside) => pieces(inside.strip_suffix(']').unwrap_or(inside), true),
        None if lines().count() > 1 && lines().all(|line| line.trim_start().starts_with('{')) => lines().collect(),
        None => pieces(text, false),
    };
    let line = |piece: &str| text[..piece.as_ptr() as usize - text.as_ptr() as usize].matches('\n').count() + 1;
    let records: Vec<Record> = pieces.iter().map(|piece| one(piece, line(piece))).collect();
    // All of them good, or nothing but one broken piece: it is the file that is broken.
    let good = records.iter().filter(|record| record.is_ok()).count();
    let named = records.iter().any(|record| record.as_ref().is_err_and(|what| what.contains(BARE)));
    let array = text.starts_with('[');
    if (array && (good == records.len() || !text.ends_with(']'))) || (good == 0 && !named) {
        let at =
            if pieces.len() > 1 { format!(" near record {}", (good + 1).min(pieces.len())) } else { String::new() };
        return Err(format!("is not JSON: {whole}{at}"));
    }
    Ok(records)
}

/// The text of bytes: UTF-8, with or without a byte order mark.
fn decoded(bytes: &[u8]) -> Result<&str, String> {
    let wide = matches!(bytes, [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, _, ..] | [_, 0, ..]);
    if wide {
        return Err("is UTF-16, not UTF-8 (byte 1); save it as UTF-8".into());
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    std::str::from_utf8(bytes).map_err(|e| {
        let good = String::from_utf8_lossy(&bytes[..e.valid_up_to()]);
        let (line, column) =
            (good.matches('\n').count() + 1, good.rsplit('\n').next().unwrap_or("").chars().count() + 1);
        let byte = bytes.get(e.valid_up_to()).copied().unwrap_or(0);
        format!("line {line}, column {column}: the byte 0x{byte:02x} is not UTF-8 (Latin-1?); save the file as UTF-8")
    })
}

/// How a word that JSON does not have is called.
const BARE: &str = "is no value in JSON";
/// Values as other languages write them, in lower case, and JSON's own words.
const FOREIGN: [&str; 8] = ["nan", "infinity", "inf", "none", "nil", "undefined", "true", "false"];
const JSON: [&str; 2] = ["true", "false"];

/// One record's text as a value; `line` is where it begins.
fn one(piece: &str, line: usize) -> Record {
    serde_json::from_str(piece).map_err(|e| match bare_word(piece) {
        Some((key, word, at)) => {
            let line = line + piece[..at].matches('\n').count();
            format!("`{key}`: {word} {BARE} (line {line}); write a number, a text or null")
        }
        None => format!("is not JSON: {e}, counted from line {line}"),
    })
}

/// The first word outside of texts that JSON does not have, such as `NaN`: the text before it, the word, where it stands.
fn bare_word(piece: &str) -> Option<(&str, &str, usize)> {
    let (mut key, mut at) = ("", 0);
    while at < piece.len() {
        let rest = &piece[at..];
        let length = match rest.as_bytes()[0] {
            b'"' => {
                let length = text_length(rest);
                key = rest[..length].trim_matches('"');
                length
            }
            byte if byte.is_ascii_alphanumeric() || byte == b'-' => {
                let length = rest.bytes().take_while(|b| b.is_ascii_alphanumeric() || b"-+._".contains(b)).count();
                let word = &rest[..length];
                let number = word.trim_start_matches('-').starts_with(|c: char| c.is_ascii_digit());
                if !number
                    && FOREIGN.contains(&word.trim_start_matches('-').to_lowercase().as_str())
                    && !JSON.contains(&word)
                {
                    return Some((key, word, at));
                }
                length
            }
            _ => rest.chars().next().map_or(1, char::len_utf8),
        };
        at += length;
    }
    None
}

/// Bytes of the JSON text that begins a slice, its quotes included.
fn text_length(rest: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in rest.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// The values of a text: between commas, or objects one behind the other.
fn pieces(text: &str, by_comma: bool) -> Vec<&str> {
    let (mut found, mut depth, mut from, mut at) = (Vec::new(), 0_usize, 0, 0);
    while at < text.len() {
        let byte = text.as_bytes()[at];
        let length = if byte == b'"' { text_length(&text[at..]) } else { 1 };
        match byte {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += length;
        let ends = if by_comma { byte == b',' } else { byte == b'}' };
        if depth == 0 && ends {
            found.push(&text[from..at - usize::from(by_comma)]);
            from = at;
        }
    }
    let rest = &text[from..];
    found.extend((!rest.trim().is_empty()).then_some(rest));
    found
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    fn good(text: &str) -> Vec<Value> {
        read(text.as_bytes()).unwrap().into_iter().map(|record| record.unwrap()).collect()
    }

    #[test]
    fn arrays_lines_and_objects_are_read() {
        let two = [json!({"title": "a]"}), json!({"title": "b,}\"["})];
        let (a, b) = (r#"{"title": "a]"}"#, r#"{"title": "b,}\"["}"#);
        for text in [
            format!("[{a},{b}]"),
            format!("\u{feff}[{a},\n {b}]\n"),
            format!("{a}\n\n{b}\n"),
            format!("{a}\r\n{b}"),
            format!("{a} {b}"),
            format!("{{\n \"title\":\n\"a]\"\n}}\n{b}"),
        ] {
            assert_eq!(good(&text), two, "{text}");
        }
        assert_eq!(good(a), two[..1]);
        assert_eq!(good("[]"), [json!(null); 0]);
    }

    #[test]
    fn words_that_are_no_json_are_named_by_record_field_and_line() {
        let text = "[{\"a\": 1},\n{\"b\": \"NaN\",\n \"c\": NaN},\n{\"d\": -Infinity}, {\"e\": 1e3, \"f\": [None]}]";
        let records = read(text.as_bytes()).unwrap();
        let faults: Vec<String> = records.iter().map(|r| r.clone().err().unwrap_or_default()).collect();
        assert_eq!(faults[0], "");
        for (at, parts) in
            [(1, ["`c`: NaN", "line 3"]), (2, ["`d`: -Infinity", "line 4"]), (3, ["`f`: None", "line 4"])]
        {
            assert!(parts.iter().all(|part| faults[at].contains(part)), "{at}: {faults:?}");
        }
        assert!(read(b"{\"title\": NaN}").unwrap()[0].as_ref().is_err_and(|what| what.contains("`title`: NaN")));
    }

    #[test]
    fn a_broken_line_leaves_the_others() {
        let records = read(b"{\"title\": 1}\n{\"title\": \n{\"title\": 3}").unwrap();
        assert_eq!(records.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true]);
    }

    #[test]
    fn files_that_are_no_json_say_where() {
        for (bytes, want) in [
            (&b""[..], "the file is empty"),
            (b" \n", "the file is empty"),
            (b"{ not json", "is not JSON: "),
            (b"[{\"a\":1},{\"b\":2},]", "is not JSON: trailing comma"),
            (b"[{\"a\":1},{\"b\":", "near record 2"),
            (b"[{\"a\":1}] x", "is not JSON: trailing characters"),
            (b"\xff\xfe[\0]\0", "UTF-16"),
            (b"[\0]\0", "UTF-16"),
            (b"[{\"t\":\n \"caf\xe9\"}]", "line 2, column 6: the byte 0xe9 is not UTF-8"),
            (b"{\"products\": []}", "want an array of records, got an object"),
            (b"7", "want an array of records, got a number"),
        ] {
            let said = read(bytes).map(|r| r.into_iter().filter_map(Result::err).collect::<String>());
            let said = said.unwrap_or_else(|what| what);
            assert!(said.contains(want), "{:?}: {said}", String::from_utf8_lossy(bytes));
        }
    }
}
