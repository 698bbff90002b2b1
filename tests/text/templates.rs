//! Chat templates render what transformers renders, and any Hugging Face folder's text side loads or says why not.
//!
//! tests/goldens/text/templates.json says which versions made it; tests/goldens/text/published holds the templates of
//! Qwen3 and Llama 3 as published (Apache-2.0, from trl).

use chrono::{DateTime, Local, NaiveDateTime};
use haggle::text::jinja::Template;
use haggle::text::{Chat, Transcript};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use tempfile::TempDir;

fn golden() -> Value {
    serde_json::from_str(&fs::read_to_string("tests/goldens/text/templates.json").unwrap()).unwrap()
}

fn published(name: &str) -> String {
    fs::read_to_string(format!("tests/goldens/text/published/{name}.jinja")).unwrap()
}

/// The golden's clock.
fn now(golden: &Value) -> DateTime<Local> {
    let now: NaiveDateTime = golden["now"].as_str().unwrap().parse().unwrap();
    now.and_local_timezone(Local).unwrap()
}

fn render(template: &str, variables: &Value, golden: &Value) -> Result<String, String> {
    Template::new(template, now(golden))?.render(minijinja::Value::from_serialize(variables))
}

#[test]
fn small_templates_render_as_transformers_renders_them() {
    let golden = golden();
    let rows = golden["templates"].as_array().unwrap();
    assert!(rows.len() > 60);
    for row in rows {
        let got = render(row["template"].as_str().unwrap(), &golden["variables"], &golden);
        assert_eq!(got.as_deref().ok(), row["rendered"].as_str(), "{}: {got:?}", row["name"]);
    }
}

#[test]
fn published_templates_render_as_transformers_renders_them() {
    let golden = golden();
    let rows = golden["published"].as_array().unwrap();
    let names: Vec<&str> = rows.iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["qwen3", "qwen3_instruct_2507", "llama3", "llama3_1", "llama3_2"]);
    for row in rows {
        let template = published(row["name"].as_str().unwrap());
        for said in row["dialogues"].as_array().unwrap() {
            let mut variables = json!({ "tools": null, "documents": null });
            for (key, of) in
                [("messages", said), ("add_generation_prompt", said), ("eos_token", row), ("bos_token", row)]
            {
                if let Some(value) = of.get(key) {
                    variables[key] = value.clone();
                }
            }
            let got = render(&template, &variables, &golden);
            assert_eq!(got.as_deref().ok(), said["rendered"].as_str(), "{}: {got:?}", row["name"]);
        }
    }
}

/// The embedded model's folder, with special tokens added and `edit` done to its `tokenizer_config.json`.
fn folder(tokens: &[&str], edit: impl FnOnce(&mut Value)) -> TempDir {
    let dir = TempDir::new().unwrap();
    let mut tokenizer: Value = read("assets/tiny/tokenizer.json");
    let added = tokenizer["added_tokens"].as_array_mut().unwrap();
    for (i, token) in tokens.iter().enumerate() {
        let mut entry = added[0].clone();
        (entry["id"], entry["content"]) = (json!(2048 + i), json!(token));
        added.push(entry);
    }
    let mut config: Value = read("assets/tiny/tokenizer_config.json");
    edit(&mut config);
    fs::write(dir.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    dir
}

fn read(path: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn write(dir: &TempDir, name: &str, text: impl AsRef<[u8]>) {
    let path = dir.path().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn load(dir: &TempDir) -> Chat {
    Chat::load(dir.path()).unwrap()
}

/// The first words of a dialogue as tokens, decoded.
fn opening(chat: &Chat) -> String {
    let mut transcript = Transcript::new(chat, "s").unwrap();
    transcript.push_incoming(chat, "u").unwrap();
    chat.tokenizer.decode(transcript.ids()).unwrap()
}

/// What loading says, which is one line and names the file, without the folder's own path.
fn complaint(dir: &TempDir, file: &str) -> String {
    let error = Chat::load(dir.path()).expect_err("must not load").to_string();
    let rest = error.strip_prefix(dir.path().join(file).to_str().unwrap());
    assert!(!error.contains('\n') && rest.is_some(), "{error}");
    rest.unwrap().replace(dir.path().to_str().unwrap(), "DIR")
}

const IM: [&str; 3] = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"];
const HEADER: [&str; 4] = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"];

#[test]
fn folders_with_published_templates_play_a_dialogue_as_rendered() {
    let golden = golden();
    for row in golden["published"].as_array().unwrap() {
        let name = row["name"].as_str().unwrap();
        let dir = folder(if name.starts_with("qwen") { &IM } else { &HEADER }, |config| {
            config["eos_token"] = row["eos_token"].clone();
            config["bos_token"] = row["bos_token"].clone();
        });
        write(&dir, "chat_template.jinja", published(name));
        let chat = load(&dir);
        assert_eq!(Some(chat.end()), chat.tokenizer.id(row["eos_token"].as_str().unwrap()), "{name}");
        // The second dialogue: white space around everything, and a reply in the middle.
        let said = &row["dialogues"][1];
        let content = |i: usize| said["messages"][i]["content"].as_str().unwrap();
        let mut transcript = Transcript::new(&chat, content(0)).unwrap();
        transcript.push_incoming(&chat, content(1)).unwrap();
        let reply = chat.tokenizer.encode(content(2).trim()).unwrap();
        transcript.push_sampled(&reply, &vec![0.0; reply.len()]);
        transcript.push_incoming(&chat, content(3)).unwrap();
        let today = Local::now().format("%d %b %Y").to_string();
        let want = said["rendered"].as_str().unwrap().replace("05 Jan 2026", &today);
        // Qwen3's writes replies as they are; ours had no space around it.
        let want = want.replace(content(2), content(2).trim());
        assert_eq!(chat.tokenizer.decode(transcript.ids()).unwrap(), want, "{name}");
        assert!(transcript.agrees(&chat), "{name}");
    }
}

#[test]
fn a_reply_stays_as_it_was_sampled_whatever_the_template_makes_of_it() {
    for (name, tokens) in [("qwen3", &IM[..]), ("llama3_2", &HEADER)] {
        let dir = folder(tokens, |config| {
            config["eos_token"] = json!(tokens.iter().find(|t| t.contains("_end|") || t.contains("eot")))
        });
        write(&dir, "chat_template.jinja", published(name));
        let chat = load(&dir);
        let mut transcript = Transcript::new(&chat, "s").unwrap();
        for turn in ["u", "v", "w"] {
            transcript.push_incoming(&chat, turn).unwrap();
            let reply = chat.tokenizer.encode(" <think>\nhm\n</think>\n\nno \n").unwrap();
            transcript.push_sampled(&[&reply[..], &[chat.end()]].concat(), &vec![0.0; reply.len() + 1]);
            assert!(transcript.reply().starts_with(&reply));
        }
        let text = chat.tokenizer.decode(transcript.ids()).unwrap();
        assert_eq!(text.matches(" <think>\nhm\n</think>\n\nno \n").count(), 3, "{name}");
    }
}

#[test]
fn a_thought_that_the_template_opens_for_the_model_stands_before_every_reply() {
    // As Qwen3 Thinking has it: the head of a reply ends inside a thought, and earlier turns are told without it.
    let dir = folder(&["<think>"], |config| {
        config["chat_template"] = json!(
            "{%- for m in messages %}{{- '<|' + m.role + '|>' + m.content + '<|end|>' }}{%- endfor %}\
             {%- if add_generation_prompt %}{{- '<|assistant|><think>\\n' }}{%- endif %}"
        );
    });
    let chat = load(&dir);
    let mut transcript = Transcript::new(&chat, "Sell.").unwrap();
    let mut ids = |text: &str| {
        transcript.push_incoming(&chat, text).unwrap();
        let mut reply = chat.tokenizer.encode("one</think>two").unwrap();
        reply.push(chat.end());
        transcript.push_sampled(&reply, &vec![0.0; reply.len()]);
        chat.tokenizer.decode(transcript.ids()).unwrap()
    };
    let first = "<|system|>Sell.<|end|><|user|>a<|end|><|assistant|><think>\none</think>two<|end|>";
    assert_eq!(ids("a"), first);
    assert_eq!(ids("b"), format!("{first}<|user|>b<|end|><|assistant|><think>\none</think>two<|end|>"));
}

#[test]
fn a_folder_of_several_templates_uses_its_default() {
    let own = read("assets/tiny/tokenizer_config.json")["chat_template"].as_str().unwrap().to_string();
    let other = own.replace("'<|end|>'", "'<|end|>!'");
    let (plain, marked) =
        ("<|system|>s<|end|><|user|>u<|end|><|assistant|>", "<|system|>s<|end|>!<|user|>u<|end|>!<|assistant|>");
    let list = json!([{ "name": "tool_use", "template": "{{ x" }, { "name": "default", "template": own }]);
    for several in [list, json!({ "rag": "", "default": own })] {
        let dir = folder(&[], |config| config["chat_template"] = several);
        assert_eq!(opening(&load(&dir)), plain);
        write(&dir, "additional_chat_templates/tool_use.jinja", "{{ x");
        assert_eq!(opening(&load(&dir)), plain);
        write(&dir, "additional_chat_templates/default.jinja", &other);
        assert_eq!(opening(&load(&dir)), marked);
        write(&dir, "chat_template.jinja", &own);
        assert_eq!(opening(&load(&dir)), plain);
    }
    let dir = folder(&[], |config| config["chat_template"] = json!([{ "name": "tool_use", "template": "" }]));
    let want = ": chat_template has none named \"default\", only [\"tool_use\"]; put one into chat_template.jinja";
    assert_eq!(complaint(&dir, "tokenizer_config.json"), want);
    let dir = folder(&[], |config| config["chat_template"] = json!(null));
    let want = ": no chat_template; put the model's own into chat_template.jinja";
    assert_eq!(complaint(&dir, "tokenizer_config.json"), want);
}

#[test]
fn carriage_returns_of_a_template_file_never_reach_the_tokens() {
    let dir = folder(&[], |_| ());
    let lines = "{%- for m in messages -%}\n{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}\n{% endfor -%}\n\
                 {%- if add_generation_prompt -%}\n{{ '<|assistant|>' }}\n{%- endif -%}\n";
    write(&dir, "chat_template.jinja", lines);
    let want = load(&dir);
    for ends in ["\r\n", "\r"] {
        write(&dir, "chat_template.jinja", lines.replace('\n', ends));
        let chat = load(&dir);
        assert_eq!(opening(&chat), "<|system|>s<|end|>\n<|user|>u<|end|>\n<|assistant|>");
        assert_eq!(chat.files(8).unwrap(), want.files(8).unwrap());
    }
}

#[test]
fn what_is_wrong_with_a_template_is_one_line_with_its_file_and_line() {
    let dir = folder(&[], |_| ());
    for (template, want) in [
        (
            "a\n{{ raise_exception('System role\nnot supported') }}",
            ": chat template: line 2: System role not supported",
        ),
        ("a\n\n{% nothing %}", ": chat template: line 3: unknown statement nothing"),
        ("{{ messages[0].content.shout() }}", ": chat template: line 1: string has no method named shout"),
        ("{% for m in messages %}", ": chat template: line 1: unexpected end of input, expected end of block"),
        ("x", ": chat template: a message is not rendered"),
        (
            "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}.{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}",
            ": chat template: a reply does not end with \"<|end|>\" or any special token",
        ),
        (
            "{% for m in messages %}<|{{ m.role }}|>{{ m.content.rstrip() }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}",
            ": chat template: a message's white space is rendered in part; it cannot be used",
        ),
    ] {
        write(&dir, "chat_template.jinja", template);
        assert_eq!(complaint(&dir, "chat_template.jinja"), want);
    }
    write(&dir, "chat_template.jinja", b"ab\xff");
    assert_eq!(complaint(&dir, "chat_template.jinja"), ": not UTF-8 at byte 2");
}

#[test]
fn a_template_that_rewrites_earlier_turns_is_refused_with_the_turn() {
    let dir = folder(&[], |_| ());
    let message = "<|{{ m.role }}|>{{ m.content }}<|end|>";
    let head = "{% if add_generation_prompt %}<|assistant|>{% endif %}";
    for (template, want) in [
        // What was asked first is told only while it is the last.
        (
            format!(
                "{{% for m in messages %}}{{% if loop.index0 == 1 and not loop.last %}}!{{% endif %}}{message}{{% endfor %}}{head}"
            ),
            "turn 1 is rendered differently once turn 2 is there",
        ),
        // A window of the last seven messages.
        (
            format!("{{% for m in messages[:1] + messages[1:][-7:] %}}{message}{{% endfor %}}{head}"),
            "turn 1 is rendered differently once turn 5 is there",
        ),
        // The third question is shortened once there are more than five.
        (
            format!(
                "{{% for m in messages %}}{{% if loop.index0 == 5 and messages | length > 11 %}}<|user|>..<|end|>{{% else %}}\
                 {message}{{% endif %}}{{% endfor %}}{head}"
            ),
            "turn 3 is rendered differently once turn 6 is there",
        ),
        // Appended to, but each time otherwise.
        (
            format!(
                "{{% for m in messages %}}{{% if loop.index0 == 5 %}}Turn 3 {{% endif %}}{message}{{% endfor %}}{head}"
            ),
            "turn 3 is rendered unlike the turns before it",
        ),
    ] {
        write(&dir, "chat_template.jinja", &template);
        let said = complaint(&dir, "chat_template.jinja");
        assert!(said.starts_with(&format!(": chat template: {want}")), "{template}: {said}");
    }
}

#[test]
fn git_lfs_pointers_are_named_with_what_to_do() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 11422654\n";
    for file in ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"] {
        let dir = folder(&[], |_| ());
        write(&dir, file, pointer);
        assert_eq!(complaint(&dir, file), ": a Git LFS pointer, not the file; run `git lfs pull` in DIR");
    }
    let dir = folder(&[], |_| ());
    fs::remove_file(dir.path().join("tokenizer.json")).unwrap();
    let said = Chat::load(dir.path()).unwrap_err().to_string();
    assert!(said.starts_with(&format!("{}: holds no tokenizer.json", dir.path().display())), "{said}");
}

#[test]
fn special_tokens_are_found_wherever_a_folder_keeps_them() {
    let own = read("assets/tiny/tokenizer_config.json")["chat_template"].as_str().unwrap().to_string();
    let template = "{{ bos_token }}{{ pad_token }}".to_string() + &own;
    let dir = folder(&["<s>"], |config| {
        config["eos_token"] = json!(null);
        config["bos_token"] = json!({ "__type": "AddedToken", "content": "<s>" });
    });
    write(&dir, "special_tokens_map.json", json!({ "eos_token": "<|end|>", "bos_token": "<|user|>" }).to_string());
    write(&dir, "chat_template.jinja", template);
    let chat = load(&dir);
    assert_eq!(chat.end(), chat.tokenizer.id("<|end|>").unwrap());
    assert!(opening(&chat).starts_with("<s><|pad|><|system|>s"), "{}", opening(&chat));
}

#[test]
fn a_reply_ends_with_the_special_token_its_template_writes() {
    let dir = folder(&IM, |config| config["eos_token"] = json!("<|endoftext|>"));
    write(&dir, "chat_template.jinja", published("qwen3"));
    let chat = load(&dir);
    assert_eq!(chat.end(), chat.tokenizer.id("<|im_end|>").unwrap());
}

#[test]
fn a_saved_folder_keeps_what_its_config_said() {
    let dir = folder(&IM, |config| {
        config["eos_token"] = json!("<|im_end|>");
        config["pad_token"] = json!("<|endoftext|>");
        config["tokenizer_class"] = json!("Qwen2Tokenizer");
        config["added_tokens_decoder"] = json!({ "2048": { "content": "<|im_start|>", "special": true } });
    });
    write(&dir, "chat_template.jinja", published("qwen3"));
    let files = load(&dir).files(40960).unwrap();
    let text = |name: &str| &files.iter().find(|(n, _)| *n == name).unwrap().1;
    let (saved, mut want) =
        (text("tokenizer_config.json"), read(dir.path().join("tokenizer_config.json").to_str().unwrap()));
    (want["chat_template"], want["model_max_length"]) = (json!(published("qwen3")), json!(40960));
    assert_eq!(serde_json::from_str::<Value>(saved).unwrap(), want);
    assert_eq!(text("chat_template.jinja"), &published("qwen3"));
    let again = TempDir::new().unwrap();
    files.iter().for_each(|(name, text)| fs::write(again.path().join(name), text).unwrap());
    assert_eq!(opening(&load(&again)), opening(&load(&dir)));
}

#[test]
fn an_added_token_is_spelled_as_it_is_where_it_is_no_string_of_bytes() {
    let dir = folder(&["né x", "né"], |_| ());
    let t = &load(&dir).tokenizer;
    for (id, want) in [(2048, "né x"), (2049, "n\u{fffd}")] {
        assert_eq!(t.decode(&[id]).unwrap(), want, "as transformers decodes it");
        assert_eq!(String::from_utf8_lossy(&t.bytes(id)), want);
    }
}

#[test]
fn ids_without_a_token_are_no_text() {
    let chat = Chat::load(Path::new("assets/tiny")).unwrap();
    let mut ids = chat.tokenizer.encode("Talk: Hm.").unwrap();
    ids.insert(1, 2048);
    ids.extend([99_999, -1, i32::MAX]);
    assert_eq!(chat.tokenizer.decode(&ids).unwrap(), "Talk: Hm.");
    assert_eq!((chat.tokenizer.bytes(2048), chat.tokenizer.id_end()), (vec![], 2048));
    assert_eq!(chat.reply_text(&[99_999, chat.end()]).unwrap(), "");
}
