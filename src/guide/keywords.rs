//! The words of a JSON schema: each is held, says that it holds nothing, or is refused by its name.
//!
//! The one idea: a word that the grammar would pass over is a promise that nobody keeps. So every place of a schema is walked, and
//! what is not known there, a slip of the pen too, is an error that names the word and its place.

use serde_json::{Map, Value};

/// Words that hold values of one schema or a boolean.
const SCHEMA: [&str; 2] = ["additionalProperties", "additionalItems"];
/// Words that hold lists of schemas.
const SCHEMAS: [&str; 4] = ["anyOf", "oneOf", "allOf", "prefixItems"];
/// Words that hold schemas by names of their own.
const NAMED: [&str; 4] = ["properties", "patternProperties", "$defs", "definitions"];
/// Words that hold no schema and are enforced.
const HELD: [&str; 16] = [
    "const",
    "enum",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minItems",
    "minLength",
    "minProperties",
    "minimum",
    "multipleOf",
    "pattern",
    "required",
    "type",
];
/// Words that hold nothing, as the standard has it.
const NOTES: [&str; 10] = [
    "$comment",
    "contentEncoding",
    "contentMediaType",
    "default",
    "deprecated",
    "description",
    "examples",
    "readOnly",
    "title",
    "writeOnly",
];
/// Forms of strings that are enforced.
const FORMATS: [&str; 10] =
    ["date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uri", "uuid"];
/// Editions of the standard.
const DRAFTS: [&str; 5] = [
    "http://json-schema.org/draft-04/schema",
    "http://json-schema.org/draft-06/schema",
    "http://json-schema.org/draft-07/schema",
    "https://json-schema.org/draft/2019-09/schema",
    "https://json-schema.org/draft/2020-12/schema",
];
/// Schemas inside of schemas.
const DEEPEST: usize = 64;

/// Holds a schema to words that are enforced.
///
/// # Errors
/// The first word that is not, and its place.
pub fn known(schema: &Map<String, Value>) -> Result<(), String> {
    schema.iter().try_for_each(|(word, value)| match (&word[..], value.as_str()) {
        ("$schema", Some(draft)) if DRAFTS.contains(&draft.trim_end_matches('#')) => Ok(()),
        ("$schema", _) => Err(format!("`$schema` {value} is no edition that is known; leave it out")),
        ("$id", Some(_)) => Ok(()),
        _ => held(word, value, "", 0),
    })
}

fn held(word: &str, value: &Value, place: &str, depth: usize) -> Result<(), String> {
    let inside = format!("{place}/{word}");
    match (word, value) {
        (word, Value::Array(all)) if SCHEMAS.contains(&word) || word == "items" => {
            all.iter().enumerate().try_for_each(|(i, each)| walked(each, &format!("{inside}/{i}"), depth + 1))
        }
        (word, Value::Object(all)) if NAMED.contains(&word) => {
            all.iter().try_for_each(|(name, each)| walked(each, &format!("{inside}/{name}"), depth + 1))
        }
        (word, one) if SCHEMA.contains(&word) || word == "items" => walked(one, &inside, depth + 1),
        ("format", Value::String(form)) if FORMATS.contains(&&form[..]) => Ok(()),
        ("format", form) => Err(format!("`format` {form} at {} is not enforced; leave it out", root(place))),
        ("$ref", Value::String(to)) if to == "#" || to.starts_with("#/") => Ok(()),
        ("$ref", to) => Err(format!("`$ref` {to} at {} leads out of the schema: want `#/...`", root(place))),
        (word, _) if HELD.contains(&word) || NOTES.contains(&word) => Ok(()),
        (word, _) if SCHEMAS.contains(&word) || NAMED.contains(&word) => {
            Err(format!("`{word}` at {} holds neither schemas nor their list", root(place)))
        }
        _ => Err(format!("`{word}` at {} is not enforced; leave it out", root(place))),
    }
}

fn walked(schema: &Value, place: &str, depth: usize) -> Result<(), String> {
    match schema {
        Value::Bool(_) => Ok(()),
        _ if depth > DEEPEST => Err(format!("it is nested deeper than {DEEPEST} schemas")),
        Value::Object(words) => words.iter().try_for_each(|(word, value)| held(word, value, place, depth)),
        _ => Err(format!("{place} is no schema")),
    }
}

fn root(place: &str) -> &str {
    if place.is_empty() { "the root" } else { place }
}
