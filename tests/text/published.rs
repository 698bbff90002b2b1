//! Published tokenizers and templates give what transformers gives: encodings of random strings, texts of ids, conversations
//! with thoughts and tools. tests/goldens/text says which versions made them (tools/golden_tokenizers.py).
//!
//! The tokenizers are not in the repository: `tools/get_tokenizers` and `tools/get_smollm2` install them (`HAGGLE_TOKENIZERS`
//! and `HAGGLE_SMOLLM2` name other folders). Without them what needs them is skipped, and says so, past the captured output;
//! with `HAGGLE_REQUIRE_MODELS=1` that is a failure.

use haggle::text::{Chat, Conversation, Prompts, Renderer, Transcript};
use serde_json::{Map, Value};
use std::io::Write;
use std::path::{Path, PathBuf};

const NAMES: [&str; 3] = ["qwen3", "llama3_1", "smollm2"];

fn golden(name: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(format!("tests/goldens/text/{name}.json")).unwrap()).unwrap()
}

fn published(name: &str) -> String {
    std::fs::read_to_string(format!("tests/goldens/text/published/{name}.jinja")).unwrap()
}

/// The folder of a published tokenizer, where it is installed.
fn folder(name: &str) -> Option<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or("target".into(), PathBuf::from);
    let folder = match name {
        "smollm2" => std::env::var_os("HAGGLE_SMOLLM2").map_or(target.join(name), PathBuf::from),
        _ => std::env::var_os("HAGGLE_TOKENIZERS").map_or(target.join("tokenizers"), PathBuf::from).join(name),
    };
    let there = folder.join("tokenizer.json").exists();
    if !there {
        let tool = if name == "smollm2" { "tools/get_smollm2" } else { "tools/get_tokenizers" };
        let required = std::env::var("HAGGLE_REQUIRE_MODELS").is_ok_and(|v| v == "1");
        assert!(!required, "HAGGLE_REQUIRE_MODELS=1, and {name}'s tokenizer is not there: run {tool}");
        let _ = writeln!(std::io::stderr(), "SKIPPED for {name}: its tokenizer is not there; run {tool}");
    }
    there.then_some(folder)
}

fn installed() -> Vec<(&'static str, Prompts)> {
    let load = |name| Some((name, Prompts::load(&folder(name)?).unwrap()));
    NAMES.into_iter().filter_map(load).collect()
}

/// Whole numbers and texts hashed as the golden's tool hashes them: FNV-1a, 64 bits.
struct Hash(u64);

impl Hash {
    fn new() -> Hash {
        Hash(0xcbf2_9ce4_8422_2325)
    }

    fn bytes(&mut self, data: &[u8]) {
        data.iter().for_each(|byte| self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
    }

    fn ids(&mut self, ids: &[i32]) {
        self.bytes(&(ids.len() as u32).to_le_bytes());
        ids.iter().for_each(|id| self.bytes(&(*id as u32).to_le_bytes()));
    }

    fn text(&mut self, text: &str) {
        self.bytes(&(text.len() as u32).to_le_bytes());
        self.bytes(text.as_bytes());
    }

    fn hex(&self) -> String {
        format!("{:016x}", self.0)
    }
}

/// The strings and ids of the golden's tool, by its rule.
struct Any {
    seed: u64,
    pieces: Vec<String>,
}

/// splitmix64's output for the state x.
fn mixed(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

impl Any {
    fn of(golden: &Value) -> Any {
        let pieces = golden["pieces"].as_array().unwrap().iter().map(|piece| piece.as_str().unwrap().into()).collect();
        Any { seed: golden["seed"].as_u64().unwrap(), pieces }
    }

    fn draw(&self, i: u64, j: u64, n: u64) -> u64 {
        mixed(mixed(self.seed + i).wrapping_add(j)) % n
    }

    fn text(&self, i: u64) -> String {
        let mut text = String::new();
        for j in 1..2 + self.draw(i, 0, 40) {
            let which = |n| self.draw(i, 3 * j + 1, n);
            let below = match self.draw(i, 3 * j, 8) {
                0..=2 => {
                    text += &self.pieces[which(self.pieces.len() as u64) as usize];
                    continue;
                }
                3 => 0x80,
                4 => 0x250,
                5 => 0x3000,
                6 => 0x1_0000,
                _ => 0x2_0000,
            };
            text.extend(char::from_u32(which(below) as u32));
        }
        text
    }

    fn ids(&self, i: u64, end: u64) -> Vec<i32> {
        (0..1 + self.draw(i, 999, 20)).map(|j| self.draw(i, 1000 + j, end) as i32).collect()
    }
}

#[test]
fn ten_thousand_strings_encode_and_decode_as_transformers_does_it() {
    let golden = golden("encodings");
    let (strings, block) = (golden["strings"].as_u64().unwrap(), golden["block"].as_u64().unwrap());
    let any = Any::of(&golden);
    assert!(strings >= 10_000);
    for (name, prompts) in installed() {
        let (want, t) = (&golden["tokenizers"][name], &prompts.tokenizer);
        assert!(t.is_byte_level(), "{name}");
        let end = want["id_end"].as_u64().unwrap();
        assert_eq!(t.id_end() as u64, end, "{name}");
        assert_eq!(serde_json::json!(prompts.of_text("Hello").unwrap()), want["input"], "{name}");
        for at in 0..(strings / block) as usize {
            let mut hashes = ["ids", "plain_ids", "text", "text_of_any_ids"].map(|of| (of, Hash::new()));
            for i in at as u64 * block..(at as u64 + 1) * block {
                let text = any.text(i);
                let ids = t.encode_marked(&text).unwrap();
                hashes[0].1.ids(&ids);
                hashes[1].1.ids(&t.encode(&text).unwrap());
                hashes[2].1.text(&t.decode(&ids).unwrap());
                hashes[3].1.text(&t.decode(&any.ids(i, end)).unwrap());
                let bytes: Vec<u8> = ids.iter().flat_map(|id| t.bytes(*id)).collect();
                assert_eq!(String::from_utf8_lossy(&bytes), t.decode(&ids).unwrap(), "{name}, string {i}: {text:?}");
            }
            for (of, hash) in &hashes {
                let strings = at as u64 * block..(at as u64 + 1) * block;
                assert_eq!(want[*of][at].as_str(), Some(&hash.hex()[..]), "{name}, {of} of strings {strings:?}");
            }
        }
    }
}

/// The golden's conversations.
fn conversations(golden: &Value) -> Vec<(&str, Conversation)> {
    golden["conversations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row["name"].as_str().unwrap(), conversation(row)))
        .collect()
}

fn conversation(row: &Value) -> Conversation {
    Conversation {
        messages: row["messages"].clone(),
        tools: row["tools"].clone(),
        add_generation_prompt: row["add_generation_prompt"].as_bool().unwrap_or(true),
        more: row["more"].as_object().cloned().unwrap_or_default(),
    }
}

#[test]
fn conversations_render_byte_for_byte_as_transformers_renders_them() {
    let golden = golden("conversations");
    for name in NAMES {
        let tokens: &[(&str, &str)] = match name {
            "qwen3" => &[("eos_token", "<|im_end|>"), ("pad_token", "<|endoftext|>")],
            "llama3_1" => &[("bos_token", "<|begin_of_text|>"), ("eos_token", "<|eot_id|>")],
            _ => &[("bos_token", "<|im_start|>"), ("eos_token", "<|im_end|>")],
        };
        let config: Map<String, Value> = tokens.iter().map(|(k, v)| (k.to_string(), Value::from(*v))).collect();
        let renderer = Renderer::new(&published(name), config, Path::new(name)).unwrap();
        for (i, (what, conversation)) in conversations(&golden).iter().enumerate() {
            let got = renderer.rendered(conversation);
            let want = golden["rendered"][name][i]["rendered"].as_str();
            assert_eq!(got.as_deref().ok(), want, "{name}, {what}: {got:?}");
        }
    }
}

/// A published tokenizer with its published template, for training and for generation; where it is installed.
fn opened(name: &str) -> Option<(Chat, Prompts)> {
    let folder = folder(name)?;
    let file = |file: &str| std::fs::read(folder.join(file)).unwrap();
    let (tokenizer, config, template) = (file("tokenizer.json"), file("tokenizer_config.json"), published(name));
    let chat = Chat::from_files(&tokenizer, &config, Some(template.as_bytes()), &folder).unwrap();
    Some((chat, Prompts::from_files(&tokenizer, &config, Some(template.as_bytes()), &folder).unwrap()))
}

#[test]
fn conversations_encode_as_transformers_encodes_them() {
    let golden = golden("conversations");
    for name in NAMES {
        let Some((_, prompts)) = opened(name) else { continue };
        for (i, (what, conversation)) in conversations(&golden).iter().enumerate() {
            let Some(want) = golden["rendered"][name][i]["ids"].as_str() else { continue };
            let mut hash = Hash::new();
            hash.ids(&prompts.of_conversation(conversation).unwrap());
            assert_eq!(hash.hex(), want, "{name}, {what}");
        }
    }
}

#[test]
fn transcripts_hold_the_ids_that_transformers_gives_the_conversation() {
    for name in NAMES {
        let Some((chat, prompts)) = opened(name) else { continue };
        let said = [
            "You buy.\nBudget: $12.50",
            "turn 1/6",
            "No, $12.",
            "I ask $19. 日本 ünï",
            "Talk: Hm?\nAction: [QUIT]",
            "So?",
        ];
        let mut transcript = Transcript::new(&chat, said[0]).unwrap();
        for (i, heard) in said.iter().enumerate().filter(|(i, _)| i % 2 == 1) {
            transcript.push_incoming(&chat, heard).unwrap();
            let role = |i: usize| ["system", "user", "assistant"][if i == 0 { 0 } else { 1 + (i - 1) % 2 }];
            let message = |(i, text): (usize, &&str)| serde_json::json!({ "role": role(i), "content": text });
            let messages: Vec<Value> = said[..=i].iter().enumerate().map(message).collect();
            let want = prompts.of_conversation(&Conversation::asking(messages.into())).unwrap();
            assert_eq!(transcript.ids(), want, "{name}: {heard}");
            if let Some(reply) = said.get(i + 1) {
                let ids = [chat.tokenizer.encode(reply).unwrap(), vec![chat.end()]].concat();
                transcript.push_sampled(&ids, &vec![0.0; ids.len()]);
            }
        }
    }
}

#[test]
fn published_folders_open_for_training_and_their_turns_are_a_prefix() {
    for name in NAMES {
        let Some((chat, _)) = opened(name) else { continue };
        let mut transcript = Transcript::new(&chat, "You buy.").unwrap();
        let mut before: Vec<i32> = vec![];
        for turn in ["turn 1/6", "I ask $19. 日本", "turn 3/6"] {
            transcript.push_incoming(&chat, turn).unwrap();
            assert!(transcript.agrees(&chat), "{name}: {turn}");
            let mut reply = chat.tokenizer.encode("<think>\nhm\n</think>\n\nNo, $12.").unwrap();
            reply.push(chat.end());
            transcript.push_sampled(&reply, &vec![-0.5; reply.len()]);
            assert!(transcript.ids().starts_with(&before), "{name}");
            before = transcript.ids().to_vec();
            assert_eq!((transcript.sampled().last(), before.last()), (Some(&true), Some(&chat.end())), "{name}");
        }
    }
}
