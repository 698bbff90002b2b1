//! A call that is sure to be one, told while it is said.
//!
//! The one idea: an answer that is held to a call has one form, and its grammar keeps it: a name, then arguments. So the name is
//! told once it is there, and the arguments as the model writes them, to the letter; a stream's pieces, joined, are the whole.

/// What is sure of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Its tool.
    Name(String),
    /// More of its arguments.
    Arguments(String),
}

/// A call as it grows.
#[derive(Debug, Clone, Default)]
pub struct Sure {
    held: String,
    at: At,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum At {
    /// Before the arguments.
    #[default]
    Head,
    /// In so many braces of them.
    Arguments { depth: usize, in_text: bool, escaped: bool },
    /// Behind them.
    Behind,
}

impl Sure {
    /// Takes more text; what is sure now.
    pub fn take(&mut self, text: &str) -> Vec<Piece> {
        self.held += text;
        let mut pieces = vec![];
        if self.at == At::Head {
            let Some((name, begin)) = head(&self.held) else { return pieces };
            self.held.drain(..begin);
            self.at = At::Arguments { depth: 0, in_text: false, escaped: false };
            pieces.push(Piece::Name(name));
        }
        let more: String = std::mem::take(&mut self.held).chars().take_while(|c| self.at.takes(*c)).collect();
        pieces.extend((!more.is_empty()).then_some(Piece::Arguments(more)));
        pieces
    }

    /// What came of a call whose name is not known yet.
    pub fn rest(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

impl At {
    /// Whether a character is one of the arguments', and where they are behind it.
    fn takes(&mut self, c: char) -> bool {
        let At::Arguments { depth, in_text, escaped } = self else { return false };
        match c {
            _ if *escaped => *escaped = false,
            '\\' if *in_text => *escaped = true,
            '"' => *in_text = !*in_text,
            '{' | '[' if !*in_text => *depth += 1,
            '}' | ']' if !*in_text => *depth -= 1,
            _ => {}
        }
        if *depth == 0 {
            *self = At::Behind;
        }
        true
    }
}

/// The name of a call, and where its arguments begin; none while it is not all there.
fn head(said: &str) -> Option<(String, usize)> {
    let mut left = &said[said.find('{')? + 1..];
    word(&mut left)?;
    mark(&mut left, ':')?;
    let name = word(&mut left)?;
    mark(&mut left, ',')?;
    word(&mut left)?;
    mark(&mut left, ':')?;
    left = left.trim_start();
    left.starts_with('{').then(|| (name, said.len() - left.len()))
}

/// Takes a text of JSON.
fn word(left: &mut &str) -> Option<String> {
    let mut values = serde_json::Deserializer::from_str(left).into_iter::<String>();
    let word = values.next()?.ok()?;
    *left = &left[values.byte_offset()..];
    Some(word)
}

/// Takes a mark.
fn mark(left: &mut &str, mark: char) -> Option<()> {
    *left = left.trim_start().strip_prefix(mark)?;
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_a_call_are_told_as_they_come_and_joined_are_the_whole() {
        let arguments = r#"{ "why": "a } \" \\", "all": [{"cents": 5}, []],"e":{} }"#;
        for (before, behind) in [
            ("<tool_call>\n{\"name\": \"offer\", \"arguments\": ", "}\n</tool_call>"),
            ("{\"name\":\"offer\",\"parameters\":", "}"),
        ] {
            let said: Vec<char> = format!("{before}{arguments}{behind}").chars().collect();
            for n in (1..9).chain([500]) {
                let mut sure = Sure::default();
                let pieces: Vec<Piece> =
                    said.chunks(n).flat_map(|some| sure.take(&some.iter().collect::<String>())).collect();
                assert_eq!((&pieces[0], sure.rest()), (&Piece::Name("offer".into()), String::new()), "pieces of {n}");
                let more: Vec<&str> = pieces[1..]
                    .iter()
                    .map(|piece| match piece {
                        Piece::Arguments(more) => more.as_str(),
                        Piece::Name(name) => name,
                    })
                    .collect();
                assert_eq!(more.concat(), arguments, "pieces of {n}");
                assert!(n > 8 || more.len() >= arguments.len() / n, "{more:?}");
            }
        }
    }

    #[test]
    fn a_call_without_a_name_yet_is_told_as_the_text_it_is() {
        for said in [
            "",
            "<tool_call>\n",
            "<tool_call>{\"name\": \"of",
            "{\"name\": \"offer\", \"parameters\"",
            "{\"name\": \"offer\", \"parameters\": 5}",
        ] {
            let mut sure = Sure::default();
            assert_eq!((sure.take(said), sure.rest()), (vec![], said.to_string()));
        }
    }
}
