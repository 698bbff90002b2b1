//! Answers of a JSON schema: which tokens may come next, so that the whole is JSON that the schema takes.
//!
//! The one idea: `llguidance` walks the schema's grammar over the vocabulary and gives a bit each token, as [`super::Course`] does
//! for replies; what it would pass over is refused before ([`keywords`]). Between values stands what Python's `json.dumps` writes,
//! a blank and no more, so that no answer is a page of white space.

use super::keywords;
use crate::error::{Error, Result};
use crate::text::Tokenizer;
use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Largest schema, in bytes of JSON.
const MOST_BYTES: usize = 256 * 1024;

/// A vocabulary that schemas are walked over.
pub struct Schemas {
    factory: ParserFactory,
    words: usize,
}

/// A schema that answers can be held to.
#[derive(Clone)]
pub struct Schema {
    start: Box<Matcher>,
    words: usize,
}

/// An answer of a schema, so far.
pub struct Form {
    at: Matcher,
    mask: Vec<i32>,
}

impl Schemas {
    /// Of a model with `vocab` rows, whose answers end in one of `ends`.
    ///
    /// # Errors
    /// [`Error::Data`] when no token ends an answer, or the vocabulary cannot be walked.
    pub fn new(tokenizer: &Tokenizer, vocab: usize, ends: &[i32]) -> Result<Schemas> {
        let ends: Vec<u32> = ends.iter().filter_map(|id| u32::try_from(*id).ok()).collect();
        let [end, ..] = ends[..] else {
            return Err(Error::data("tokenizer.json", "no token ends an answer: it cannot be held to a schema"));
        };
        let last = tokenizer.id_end().min(vocab) as i32;
        let plain = |id: i32| id < last && !tokenizer.is_special(id) && !ends.contains(&(id as u32));
        let spelled = |id: i32| if plain(id) { tokenizer.bytes(id) } else { vec![] };
        let words: Vec<Vec<u8>> = (0..vocab as i32).map(spelled).collect();
        let trie = TokTrie::from(&TokRxInfo::new(vocab as u32, end), &words).with_eos_tokens(&ends);
        let tokens: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let failed = |e: anyhow::Error| Error::data("tokenizer.json", line(&e.to_string()));
        let mut factory = ParserFactory::new_simple(&tokens).map_err(failed)?;
        factory.quiet().limits_mut().verbose_errors = false;
        Ok(Schemas { factory, words: vocab.div_ceil(32) })
    }

    /// Reads a schema.
    ///
    /// # Errors
    /// What of it is not enforced, by name; what makes it none, or one that no value satisfies.
    pub fn read(&self, schema: &Map<String, Value>) -> std::result::Result<Schema, String> {
        self.read_within(schema, None)
    }

    /// The same for JSON on a line of its own between two words.
    ///
    /// # Errors
    /// As [`Schemas::read`].
    pub fn read_within(
        &self,
        schema: &Map<String, Value>,
        frame: Option<[&str; 2]>,
    ) -> std::result::Result<Schema, String> {
        keywords::known(schema)?;
        let mut schema = schema.clone();
        let spaces = json!({"whitespace_flexible": false, "item_separator": ", ", "key_separator": ": "});
        schema.insert("x-guidance".into(), spaces);
        let schema = Value::Object(schema);
        if schema.to_string().len() > MOST_BYTES {
            return Err(format!("it has more than {MOST_BYTES} bytes"));
        }
        let grammar = match frame {
            None => TopLevelGrammar::from_json_schema(schema),
            Some([open, close]) => {
                let [open, close] = [json!(format!("{open}\n")), json!(format!("\n{close}"))];
                TopLevelGrammar::from_lark(format!("start: {open} inside {close}\ninside: %json {schema}\n"))
            }
        };
        let parser = self.factory.create_parser(grammar);
        let start = Matcher::new(Ok(parser.map_err(|e| line(&e.to_string()))?));
        let mut form = Schema { start: Box::new(start), words: self.words }.begin();
        form.allowed().map_err(|e| line(&e.to_string()))?;
        Ok(Schema { start: Box::new(form.at), words: self.words })
    }
}

impl Schema {
    /// An answer of which nothing was said.
    pub fn begin(&self) -> Form {
        Form { at: (*self.start).clone(), mask: vec![0; self.words] }
    }
}

impl Form {
    /// The tokens that may come next: see [`crate::infer::Engine::allow`]. Never none.
    ///
    /// # Errors
    /// [`Error::Data`] when the schema takes more to walk than is bearable.
    pub fn allowed(&mut self) -> Result<&[i32]> {
        let words = self.at.compute_mask_or_eos().map_err(|e| Error::data("schema", line(&e.to_string())))?;
        let n = self.mask.len();
        self.mask.copy_from_slice(bytemuck::cast_slice(&words.as_slice()[..n]));
        Ok(&self.mask)
    }

    /// Takes the next token. False for one that may not come.
    pub fn take(&mut self, id: i32) -> bool {
        u32::try_from(id).is_ok_and(|id| self.at.consume_token(id).is_ok())
    }
}

impl std::fmt::Debug for Schema {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.debug_struct("Schema").finish_non_exhaustive()
    }
}

/// The first line of what a library says.
fn line(said: &str) -> String {
    said.lines().next().unwrap_or_default().trim_end_matches('.').to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded;
    use crate::noise::Noise;

    fn schemas() -> (Schemas, Tokenizer) {
        let tokenizer = embedded::chat().unwrap().tokenizer;
        (Schemas::new(&tokenizer, 2048, &[1]).unwrap(), tokenizer)
    }

    fn object(schema: Value) -> Map<String, Value> {
        schema.as_object().unwrap().clone()
    }

    /// A value of a schema by chance, in tokens by chance; none where it has no end within 2,000.
    fn drawn(schemas: &Schemas, tokenizer: &Tokenizer, schema: &Value, case: u64) -> Option<Value> {
        let mut form = schemas.read(&object(schema.clone())).unwrap().begin();
        let (noise, mut bytes) = (Noise::new(31, case), vec![]);
        for step in 0..2_000 {
            let mask = form.allowed().unwrap();
            let may = |id: &i32| mask[*id as usize / 32] >> (id % 32) & 1 == 1;
            let all: Vec<i32> = (0..2048).filter(may).collect();
            assert!(!all.is_empty(), "nothing may come next");
            let id = if may(&1) { 1 } else { all[noise.below(step, all.len())] };
            if id == 1 {
                return Some(serde_json::from_slice(&bytes).unwrap());
            }
            assert!(form.take(id));
            bytes.extend(tokenizer.bytes(id));
        }
        None
    }

    #[test]
    fn numbers_keep_to_minimum_maximum_and_multiple() {
        let (schemas, tokenizer) = schemas();
        for (schema, held) in [
            (
                json!({"type": "integer", "minimum": 3_333, "maximum": 5_001}),
                (|x| (3_333.0..=5_001.0).contains(&x)) as fn(f64) -> bool,
            ),
            (json!({"type": "integer", "exclusiveMinimum": 99, "exclusiveMaximum": 101}), |x| x == 100.0),
            (json!({"type": "integer", "minimum": 1, "maximum": 999, "multipleOf": 25}), |x| {
                x % 25.0 == 0.0 && x >= 1.0
            }),
            (json!({"type": "number", "minimum": 0.5, "maximum": 2.25, "multipleOf": 0.25}), |x| {
                (x * 4.0).fract() == 0.0 && (0.5..=2.25).contains(&x)
            }),
            (json!({"type": "number", "minimum": -1.5, "maximum": 12.75}), |x| (-1.5..=12.75).contains(&x)),
        ] {
            let whole = json!({"type": "object", "properties": {"p": schema}, "required": ["p"], "additionalProperties": false});
            let got: Vec<f64> =
                (0..40).filter_map(|case| drawn(&schemas, &tokenizer, &whole, case)?["p"].as_f64()).collect();
            assert!(got.len() >= 20, "{whole}: {got:?}");
            assert!(got.iter().all(|x| held(*x)), "{whole}: {got:?}");
        }
    }

    #[test]
    fn objects_have_their_fields_and_no_other() {
        let (schemas, tokenizer) = schemas();
        let schema = json!({
            "type": "object", "additionalProperties": false, "required": ["kind", "cents"],
            "properties": {"kind": {"enum": ["offer", "quit"]}, "cents": {"$ref": "#/$defs/cents"},
                           "tags": {"type": "array", "items": {"type": "string", "maxLength": 3}, "maxItems": 2}},
            "$defs": {"cents": {"type": ["integer", "null"], "minimum": 1, "maximum": 99}},
        });
        for case in 0..40 {
            let got = drawn(&schemas, &tokenizer, &schema, case).unwrap();
            let fields = got.as_object().unwrap();
            assert!(got["kind"] == "offer" || got["kind"] == "quit", "{got}");
            assert!(got["cents"].is_null() || (1..=99).contains(&got["cents"].as_i64().unwrap()), "{got}");
            assert!(fields.keys().all(|name| ["kind", "cents", "tags"].contains(&&name[..])), "{got}");
            let tags = got.get("tags").map_or(vec![], |tags| tags.as_array().unwrap().clone());
            assert!(tags.len() <= 2 && tags.iter().all(|tag| tag.as_str().unwrap().chars().count() <= 3), "{got}");
        }
    }

    #[test]
    fn a_word_that_is_not_enforced_is_refused_by_name_wherever_it_stands() {
        let (schemas, _) = schemas();
        for word in [
            "uniqueItems",
            "contains",
            "not",
            "if",
            "propertyNames",
            "dependentRequired",
            "unevaluatedProperties",
            "minimun",
            "x-guidance",
            "nullable",
            "$anchor",
            "$dynamicRef",
            "format",
        ] {
            let bad = json!({ word: "odd" });
            for schema in [
                bad.clone(),
                json!({"type": "object", "properties": {"a": {"items": bad}}}),
                json!({"anyOf": [{"type": "null"}, bad]}),
                json!({"$defs": {"x": bad}, "$ref": "#/$defs/x"}),
            ] {
                let said = schemas.read(&object(schema.clone())).unwrap_err();
                assert!(said.starts_with(&format!("`{word}` ")), "{schema}: {said}");
            }
        }
        for (schema, want) in [
            (json!({"$schema": "mine"}), "no edition"),
            (json!({"$ref": "http://x/y"}), "leads out"),
            (json!({"properties": {"a": 3}}), "/properties/a is no schema"),
            (json!({"properties": 3}), "`properties`"),
            (json!({"$ref": "#/$defs/none"}), "none"),
            (json!({"type": "integer", "minimum": 5, "maximum": 4}), ""),
            (json!({"type": "string", "pattern": "("}), ""),
            (json!({"type": "strin"}), ""),
        ] {
            let said = schemas.read(&object(schema.clone())).map(|_| ()).unwrap_err();
            assert!(said.contains(want) && !said.is_empty() && !said.contains('\n'), "{schema}: {said}");
        }
        // A field may be called as a word is.
        let fine = json!({"type": "object", "properties": {"not": {"type": "null"}, "if": true}, "title": "t"});
        assert!(schemas.read(&object(fine)).is_ok());
    }
}
