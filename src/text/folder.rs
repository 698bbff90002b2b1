//! The text side of a Hugging Face folder: which file holds what, and which of several templates is meant.
//!
//! As transformers has it: `chat_template.jinja` comes first, then `additional_chat_templates/default.jinja`, then the
//! `chat_template` of `tokenizer_config.json`, a string or a list of named templates of which the one called `default` is
//! taken. Special tokens that `tokenizer_config.json` does not name may stand in `special_tokens_map.json`.

use super::chat::Chat;
use super::prompts::Prompts;
use super::renderer::Renderer;
use super::tokenizer::Tokenizer;
use crate::disk::read_fetched;
use crate::error::{Error, Result};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

const TOKENIZER: &str = "tokenizer.json";
const CONFIG: &str = "tokenizer_config.json";
const TOKENS: &str = "special_tokens_map.json";
const TEMPLATES: [&str; 2] = ["chat_template.jinja", "additional_chat_templates/default.jinja"];

/// The text side of a folder, read.
struct Parts {
    tokenizer: Tokenizer,
    config: Map<String, Value>,
    /// The template and its file, or why there is none.
    template: Result<(String, PathBuf)>,
}

impl Chat {
    /// The tokenizer and template of a Hugging Face folder.
    ///
    /// # Errors
    /// [`Error::Io`] for a file that cannot be read, [`Error::Data`] for one that holds something else.
    pub fn load(folder: &Path) -> Result<Chat> {
        read(folder)?.chat()
    }

    /// The same from the files' bytes; `folder` names them in errors. A `chat_template.jinja` wins over the template
    /// inside `tokenizer_config.json`.
    ///
    /// # Errors
    /// [`Error::Data`] for bytes that hold something else.
    pub fn from_files(tokenizer: &[u8], config: &[u8], template: Option<&[u8]>, folder: &Path) -> Result<Chat> {
        from_bytes(tokenizer, config, template, folder)?.chat()
    }
}

impl Prompts {
    /// The tokenizer of a Hugging Face folder, and its template if it has one.
    ///
    /// # Errors
    /// [`Error::Io`] for a file that cannot be read, [`Error::Data`] for one that holds something else.
    pub fn load(folder: &Path) -> Result<Prompts> {
        Ok(read(folder)?.prompts())
    }

    /// The same from the files' bytes, as [`Chat::from_files`].
    ///
    /// # Errors
    /// [`Error::Data`] for bytes that hold something else.
    pub fn from_files(tokenizer: &[u8], config: &[u8], template: Option<&[u8]>, folder: &Path) -> Result<Prompts> {
        Ok(from_bytes(tokenizer, config, template, folder)?.prompts())
    }
}

impl Parts {
    fn chat(self) -> Result<Chat> {
        let (text, path) = self.template?;
        Chat::new(self.tokenizer, &text, self.config, &path)
    }

    fn prompts(self) -> Prompts {
        let Parts { tokenizer, config, template } = self;
        let eos = super::renderer::token(&config, "eos_token").and_then(|eos| tokenizer.id(eos));
        let template = template.and_then(|(text, path)| Renderer::new(&text, config, &path));
        Prompts { tokenizer, eos, template }
    }
}

fn read(folder: &Path) -> Result<Parts> {
    let tokenizer = folder.join(TOKENIZER);
    if !tokenizer.exists() {
        let what = format!("holds no {TOKENIZER}; transformers' AutoTokenizer writes one with save_pretrained");
        return Err(Error::io(folder, what));
    }
    let mut config = object(&read_fetched(&folder.join(CONFIG))?, &folder.join(CONFIG))?;
    let tokens = folder.join(TOKENS);
    if tokens.exists() {
        for (name, token) in object(&read_fetched(&tokens)?, &tokens)? {
            let known = config.get(&name).is_some_and(|value| !value.is_null());
            if !known && name.ends_with("_token") {
                config.insert(name, token);
            }
        }
    }
    let file = TEMPLATES.iter().map(|name| folder.join(name)).find(|path| path.exists());
    let template = file.map(|path| Ok((read_fetched(&path)?, path))).transpose()?;
    from_parts(&read_fetched(&tokenizer)?, config, template, folder)
}

fn from_bytes(tokenizer: &[u8], config: &[u8], template: Option<&[u8]>, folder: &Path) -> Result<Parts> {
    let config = object(config, &folder.join(CONFIG))?;
    let template = template.map(|bytes| (bytes.to_vec(), folder.join(TEMPLATES[0])));
    from_parts(tokenizer, config, template, folder)
}

fn from_parts(
    tokenizer: &[u8],
    config: Map<String, Value>,
    template: Option<(Vec<u8>, PathBuf)>,
    folder: &Path,
) -> Result<Parts> {
    let tokenizer = Tokenizer::from_bytes(tokenizer, &folder.join(TOKENIZER))?;
    let template = match template {
        Some((bytes, path)) => match String::from_utf8(bytes) {
            Ok(text) => Ok((text, path)),
            Err(e) => Err(Error::data(path, format!("not UTF-8 at byte {}", e.utf8_error().valid_up_to()))),
        },
        None => {
            let path = folder.join(CONFIG);
            let text = named(config.get("chat_template").unwrap_or(&Value::Null));
            text.map_err(|what| Error::data(&path, what)).map(|text| (text, path))
        }
    };
    Ok(Parts { tokenizer, config, template })
}

/// The template of a `chat_template` entry: itself, or the one called `default` among several.
fn named(entry: &Value) -> Result<String, String> {
    let all: Vec<(&str, &Value)> = match entry {
        Value::String(text) => return Ok(text.clone()),
        Value::Array(list) => list.iter().map(|v| (v["name"].as_str().unwrap_or_default(), &v["template"])).collect(),
        Value::Object(map) => map.iter().map(|(name, template)| (name.as_str(), template)).collect(),
        _ => return Err("no chat_template; put the model's own into chat_template.jinja".into()),
    };
    match all.iter().find(|(name, _)| *name == "default").map(|(_, template)| template.as_str()) {
        Some(Some(text)) => Ok(text.into()),
        Some(None) => Err("the chat_template named \"default\" is no text".into()),
        None => {
            let names: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
            Err(format!("chat_template has none named \"default\", only {names:?}; put one into chat_template.jinja"))
        }
    }
}

fn object(bytes: &[u8], path: &Path) -> Result<Map<String, Value>> {
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(Error::data(path, "not a JSON object")),
        Err(e) => Err(Error::data(path, format!("not JSON: {e}"))),
    }
}
