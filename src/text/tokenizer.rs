//! Byte-level BPE in the Hugging Face file format.
//!
//! Digits are split one by one, so that a price is spelled as the model must learn to spell it. Grid percentages, action
//! words and line heads are single tokens ([`WORDS`]): added, not special, found in any text. The special tokens
//! ([`SPECIALS`]) mark roles and ends and come from the chat template only: [`Tokenizer::encode`] treats content that
//! spells one as plain text, so no product title and no reply can forge a turn. (A Hugging Face tokenizer does the same
//! with `split_special_tokens=True`; on text without such spellings both agree either way.)

use crate::error::{Error, Result};
use serde_json::Value;
use std::path::Path;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::{AddedToken, DecoderWrapper, PreTokenizerWrapper};

/// The special tokens of our own tokenizers, ids 0 to 4.
pub const SPECIALS: [&str; 5] = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"];
/// Strings that are one token in our own tokenizers, beside the percentages 0, 5 .. 100.
pub const WORDS: [&str; 9] =
    ["Thought:", "\nTalk:", "\nAction:", " [BUY]", " [SELL]", " [DEAL]", " [REJECT]", " [QUIT]", " (1x"];
/// Tokens of the embedded model's vocabulary (V).
pub const VOCAB: usize = 2048;

/// A tokenizer: text to ids and back.
#[derive(Clone)]
pub struct Tokenizer {
    /// Finds special tokens: for the template's own text.
    marked: tokenizers::Tokenizer,
    /// Takes special tokens for plain text: for content.
    plain: tokenizers::Tokenizer,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokenizer[{}]", self.vocab())
    }
}

impl Tokenizer {
    /// Learns a vocabulary of `vocab` tokens from texts. The same texts give the same tokenizer, whatever their order of
    /// arrival in threads: merges are chosen by count, then by the pair's ids.
    ///
    /// # Errors
    /// [`Error::Data`] when the texts hold too few different words for `vocab` merges.
    pub fn train(texts: &[String], vocab: usize) -> Result<Tokenizer> {
        let words = words();
        let mut tokenizer = tokenizers::Tokenizer::new(BPE::default());
        let split: [PreTokenizerWrapper; 2] = [Digits::new(true).into(), byte_level().into()];
        tokenizer.with_pre_tokenizer(Some(Sequence::new(split.into())));
        tokenizer.with_decoder(Some(byte_level()));
        let trainer = BpeTrainer::builder()
            .show_progress(false)
            .vocab_size(vocab.saturating_sub(words.len()))
            .min_frequency(2)
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .special_tokens(SPECIALS.iter().map(|s| AddedToken::from(*s, true)).collect())
            .build();
        let pieces = texts.iter().flat_map(|t| without(t, &words));
        tokenizer.train(&mut TrainerWrapper::from(trainer), pieces).map_err(|e| Error::data("tokenizer", e))?;
        let added: Vec<AddedToken> =
            words.iter().map(|w| AddedToken::from(w.as_str(), false).normalized(false)).collect();
        tokenizer.add_tokens(&added);
        let got = tokenizer.get_vocab_size(true);
        if got != vocab {
            return Err(Error::data("tokenizer", format!("the texts give {got} tokens, {vocab} were asked for")));
        }
        Ok(Tokenizer::from_inner(tokenizer))
    }

    fn from_inner(mut marked: tokenizers::Tokenizer) -> Tokenizer {
        // Fields of a loaded file that change ids behind our back: none is wanted in a transcript.
        let _ = marked.with_truncation(None);
        marked.with_padding(None);
        marked.set_encode_special_tokens(false);
        let mut plain = marked.clone();
        plain.set_encode_special_tokens(true);
        Tokenizer { marked, plain }
    }

    /// The tokenizer of a `tokenizer.json`; `path` names it in errors.
    ///
    /// # Errors
    /// [`Error::Data`] when the bytes are no tokenizer.
    pub fn from_bytes(bytes: &[u8], path: &Path) -> Result<Tokenizer> {
        let inner =
            tokenizers::Tokenizer::from_bytes(bytes).map_err(|e| Error::data(path, format!("no tokenizer: {e}")))?;
        Ok(Tokenizer::from_inner(inner))
    }

    /// The text of a `tokenizer.json`.
    ///
    /// # Errors
    /// [`Error::Data`] when the tokenizer cannot be written as JSON.
    pub fn to_json(&self) -> Result<String> {
        self.marked.to_string(true).map_err(|e| Error::data("tokenizer.json", e))
    }

    /// Number of tokens, added ones included.
    pub fn vocab(&self) -> usize {
        self.marked.get_vocab_size(true)
    }

    /// Ids lie below this; between them there may be some that stand for no token.
    pub fn id_end(&self) -> usize {
        self.marked.get_vocab(true).values().max().map_or(0, |id| *id as usize + 1)
    }

    /// True for a token that marks something and is no text.
    pub fn is_special(&self, id: i32) -> bool {
        let token = u32::try_from(id).ok().and_then(|id| self.marked.id_to_token(id));
        token.is_some_and(|token| self.marked.get_added_vocabulary().is_special_token(&token))
    }

    /// The id of a token by its exact content.
    pub fn id(&self, token: &str) -> Option<i32> {
        self.marked.token_to_id(token).map(|id| id as i32)
    }

    /// Ids of content: spellings of special tokens are plain text.
    ///
    /// # Errors
    /// [`Error::Data`] when the tokenizer itself fails (a broken file).
    pub fn encode(&self, text: &str) -> Result<Vec<i32>> {
        ids(&self.plain, text)
    }

    /// Ids of text that a chat template wrote: spellings of special tokens are special tokens.
    ///
    /// # Errors
    /// [`Error::Data`] when the tokenizer itself fails (a broken file).
    pub fn encode_marked(&self, text: &str) -> Result<Vec<i32>> {
        ids(&self.marked, text)
    }

    /// Ids of a text that is a whole input, as transformers' `tokenizer(text)` gives them: spellings of special tokens are
    /// special tokens, and what the tokenizer puts before every text (Llama 3's `<|begin_of_text|>`) stands before it.
    ///
    /// # Errors
    /// [`Error::Data`] when the tokenizer itself fails (a broken file).
    pub fn encode_input(&self, text: &str) -> Result<Vec<i32>> {
        let encoding = self.marked.encode_fast(text, true).map_err(|e| Error::data("tokenizer", e))?;
        Ok(encoding.get_ids().iter().map(|id| *id as i32).collect())
    }

    /// The bytes one id stands for: those of a reply's ids, joined, are its text. Empty for an id outside the vocabulary.
    /// As byte-level decoders have it: a token with a character that stands for no byte is an added one, spelled as it is.
    pub fn bytes(&self, id: i32) -> Vec<u8> {
        let token = u32::try_from(id).ok().and_then(|id| self.marked.id_to_token(id)).unwrap_or_default();
        token.chars().map(byte_of).collect::<Option<Vec<u8>>>().unwrap_or_else(|| token.into_bytes())
    }

    /// True where a token is a string of bytes, whatever stands beside it: [`Tokenizer::bytes`] is then its share of a text.
    pub fn is_byte_level(&self) -> bool {
        matches!(self.marked.get_decoder(), Some(DecoderWrapper::ByteLevel(_)))
    }

    /// The text of ids, special tokens spelled out; bytes that are not UTF-8 become U+FFFD. An id that stands for no token
    /// (a model's embedding may have more rows than the tokenizer has tokens) is no text.
    ///
    /// # Errors
    /// [`Error::Data`] when the tokenizer itself fails (a broken file).
    pub fn decode(&self, ids: &[i32]) -> Result<String> {
        let ids: Vec<u32> = ids.iter().filter_map(|id| u32::try_from(*id).ok()).collect();
        self.marked.decode(&ids, false).map_err(|e| Error::data("ids", e))
    }
}

fn ids(tokenizer: &tokenizers::Tokenizer, text: &str) -> Result<Vec<i32>> {
    let encoding = tokenizer.encode_fast(text, false).map_err(|e| Error::data("tokenizer", e))?;
    Ok(encoding.get_ids().iter().map(|id| *id as i32).collect())
}

fn byte_level() -> ByteLevel {
    ByteLevel::new(false, false, true)
}

/// Where the ids end that the text of a `tokenizer.json` gives to tokens: one above the highest.
///
/// # Errors
/// What keeps it from being one.
pub fn id_end(json: &[u8]) -> Result<usize, String> {
    let json: Value = serde_json::from_slice(json).map_err(|e| format!("not JSON: {e}"))?;
    let vocab = match &json["model"]["vocab"] {
        Value::Object(map) => map.values().filter_map(Value::as_u64).max(),
        Value::Array(list) => (list.len() as u64).checked_sub(1),
        _ => return Err("no tokenizer: it has no model.vocab".into()),
    };
    let added = json["added_tokens"].as_array().into_iter().flatten().filter_map(|token| token["id"].as_u64()).max();
    Ok(vocab.max(added).map_or(0, |id| id as usize + 1))
}

/// [`WORDS`] and the percentages.
fn words() -> Vec<String> {
    let percents = (0..=100).step_by(5).map(|p| format!(" {p}%"));
    WORDS.iter().map(|w| w.to_string()).chain(percents).collect()
}

/// The pieces of a text between words that are tokens of their own, so that no merge is spent on their insides.
fn without<'a>(text: &'a str, words: &[String]) -> Vec<&'a str> {
    let cut = |pieces: Vec<&'a str>, word: &String| pieces.into_iter().flat_map(|p| p.split(word.as_str())).collect();
    words.iter().fold(vec![text], cut)
}
/// The byte a character of a byte-level token stands for (Radford et al. 2019): visible Latin characters are themselves,
/// the other bytes follow from U+0100 in order.
fn byte_of(c: char) -> Option<u8> {
    let itself = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    match c as u32 {
        code @ 0..=0xff => itself(code as u8).then_some(code as u8),
        code => (0..=0xffu8).filter(|byte| !itself(*byte)).nth((code - 0x100) as usize),
    }
}
