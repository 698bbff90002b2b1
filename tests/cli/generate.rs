//! `haggle generate`, from outside and as a library: the same answers in any batch, what is streamed, what is refused.

use crate::support::cli::{haggle, haggle_with};
use haggle::device::Device;
use haggle::device::cpu::Cpu;
use haggle::embedded;
use haggle::generate::{Answer, Finish, Heard, How, Request, run};
use haggle::infer::{Engine, EngineConfig, Lean, Sampling};
use haggle::noise::Noise;
use haggle::text::Conversation;
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

fn how(sampling: Sampling) -> How {
    How { sampling, lean: Lean::default(), ends: vec![1], stops: vec!["Action".into(), "zz".into()], seed: 3 }
}

fn warm() -> Sampling {
    Sampling { top_k: 40, top_p: 0.95, min_p: 0.001, ..Sampling::plain(0.9, 24, -1) }
}

/// Prompts that share beginnings, of which some are the same; each but the last with two answers.
fn asked() -> Vec<Request> {
    let prompts = embedded::prompts().unwrap();
    let system = "You are the buyer. Budget: $12.50. ".repeat(3);
    let mut all = Vec::new();
    for label in 1..=9u64 {
        let text = ["Hi", "turn 1/6", "Talk: I ask $19."][label as usize % 3];
        let messages = json!([{ "role": "system", "content": system }, { "role": "user", "content": text }]);
        let prompt = prompts.of_conversation(&Conversation::asking(messages)).unwrap();
        all.extend((0..2).map(|sample| Request { label, sample, prompt: prompt.clone() }));
    }
    all.push(Request { label: 77, sample: 0, prompt: prompts.of_text("Thought").unwrap() });
    all
}

/// Answers to `requests` from an engine of `seats` seats, in their order; what was streamed is held to the texts.
fn answered(requests: &[Request], how: &How, seats: usize, threads: usize, prefix_reuse: bool) -> Vec<Answer> {
    answered_on(&Device::Cpu(Arc::new(Cpu::new(threads))), requests, how, seats, prefix_reuse)
}

fn answered_on(dev: &Device, requests: &[Request], how: &How, seats: usize, prefix_reuse: bool) -> Vec<Answer> {
    let weights = embedded::weights(dev).unwrap();
    let max_rows = if seats.is_multiple_of(2) { 17 } else { 1024 };
    let sizes = EngineConfig { prefix_reuse, max_rows, ..EngineConfig::sized_for(seats, 160) };
    let mut engine = Engine::new(dev, &weights.config, sizes).unwrap();
    let tokenizer = embedded::chat().unwrap().tokenizer;
    let mut streamed = vec![String::new(); requests.len()];
    let mut answers: Vec<Option<Answer>> = vec![None; requests.len()];
    run(&mut engine, &weights, &tokenizer, requests, how, &mut |i, heard| {
        match heard {
            Heard::Text(text) => streamed[i].push_str(text),
            Heard::Answer(answer) => assert!(answers[i].replace(answer).is_none(), "answered twice"),
        }
        Ok(())
    })
    .unwrap();
    let answers: Vec<Answer> = answers.into_iter().map(Option::unwrap).collect();
    assert!(answers.iter().map(|a| &a.text).eq(&streamed), "what was streamed is the text");
    answers
}

fn bits(answer: &Answer) -> (Vec<i32>, Vec<u32>, String, Finish) {
    (answer.ids.clone(), answer.logprobs.iter().map(|l| l.to_bits()).collect(), answer.text.clone(), answer.finish)
}

#[test]
fn an_answer_in_any_batch_is_the_answer_alone_bit_for_bit() {
    let requests = asked();
    for sampling in [warm(), Sampling::plain(0.0, 24, -1)] {
        let how = how(sampling);
        let alone: Vec<_> =
            requests.iter().map(|r| bits(&answered(std::slice::from_ref(r), &how, 1, 1, false)[0])).collect();
        let ends: Vec<Finish> = alone.iter().map(|answer| answer.3).collect();
        assert!(ends.contains(&Finish::Stop) && alone.iter().any(|a| a.0.last() != Some(&1)), "{ends:?}");
        for (case, seats) in [1, 2, 5, 8, 64].into_iter().enumerate() {
            // Any order: a turn by sevens, which 19 does not share.
            let order: Vec<usize> = (0..requests.len()).map(|i| (i * (case + 1) * 7 + case) % requests.len()).collect();
            let order = if case % 5 == 4 { (0..requests.len()).collect() } else { order };
            let shuffled: Vec<Request> = order.iter().map(|i| requests[*i].clone()).collect();
            let got = answered(&shuffled, &how, seats, 1 + case % 2, case.is_multiple_of(2));
            for (at, i) in order.iter().enumerate() {
                assert_eq!(bits(&got[at]), alone[*i], "request {i} among {seats} seats");
            }
        }
    }
}

#[test]
fn kernels_keep_an_answer_the_same_in_any_batch() {
    let dev = Device::open("emu", 2).unwrap();
    let (requests, how) = (&asked()[..6], how(Sampling { max_new_tokens: 6, ..warm() }));
    let together = answered_on(&dev, requests, &how, 6, true);
    for (i, request) in requests.iter().enumerate().skip(3) {
        let alone = answered_on(&dev, std::slice::from_ref(request), &how, 1, false);
        assert_eq!(bits(&alone[0]), bits(&together[i]), "request {i}");
    }
}

#[test]
fn samples_and_labels_have_noise_of_their_own() {
    let how = how(warm());
    let got = answered(&asked(), &how, 8, 1, true);
    let same: Vec<_> = got[..18].chunks(2).filter(|pair| pair[0].ids == pair[1].ids).collect();
    assert!(same.len() < 5, "{} of 9 prompts have twice the same answer", same.len());
    let other = answered(&asked(), &How { seed: 4, ..how }, 8, 1, true);
    assert!(got.iter().zip(&other).filter(|(a, b)| a.ids != b.ids).count() > 9);
}

#[test]
fn every_ending_has_its_name_and_no_text_of_what_ended_it() {
    let tokenizer = embedded::chat().unwrap().tokenizer;
    for answer in answered(&asked(), &how(warm()), 8, 1, true) {
        let whole = tokenizer.decode(&answer.ids).unwrap();
        match answer.finish {
            Finish::Stop if answer.ids.last() == Some(&1) => assert_eq!(answer.text + "<|end|>", whole),
            Finish::Stop => {
                let at = ["Action", "zz"].iter().filter_map(|stop| whole.find(stop)).min().unwrap();
                assert_eq!(answer.text, whole[..at]);
            }
            Finish::Length => assert_eq!((answer.ids.len(), answer.text), (24, whole)),
            Finish::Context => panic!("the context is not full"),
        }
    }
    // A prompt of the context less five leaves five tokens.
    let dev = Device::Cpu(Arc::new(Cpu::new(1)));
    let context = embedded::weights(&dev).unwrap().config.max_position_embeddings;
    let noise = Noise::new(1, 1);
    let prompt: Vec<i32> = (0..context as u64 - 5).map(|i| 300 + noise.below(i, 900) as i32).collect();
    let weights = embedded::weights(&dev).unwrap();
    let mut engine = Engine::new(&dev, &weights.config, EngineConfig::sized_for(1, context)).unwrap();
    let mut got = None;
    let how = How { ends: vec![], stops: vec![], ..how(Sampling::plain(1.0, 512, -1)) };
    run(&mut engine, &weights, &tokenizer, &[Request { label: 1, sample: 0, prompt }], &how, &mut |_, heard| {
        if let Heard::Answer(answer) = heard {
            got = Some((answer.ids.len(), answer.finish));
        }
        Ok(())
    })
    .unwrap();
    assert_eq!(got, Some((5, Finish::Context)));
}

/// The JSON lines of an output.
fn json_lines(out: &str) -> Vec<Value> {
    out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

const LINES: &str = r#"{"messages": [{"role": "system", "content": "Buy."}, {"role": "user", "content": "Hi"}], "note": "kept apart"}

{"prompt": "Thought: bid 55%\nTalk:"}
{"ids": [2, 300, 301, 1, 3, 400, 1, 4]}
"#;

#[test]
fn a_file_is_answered_in_order_and_by_line() {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("in.jsonl"), LINES).unwrap();
    let args = ["generate", "--input", "in.jsonl", "--max-new-tokens", "12", "--n", "2", "--seed", "5"];
    let said = haggle(dir.path(), &args);
    assert!(said.err.contains("6 answers") && !said.err.contains("generation_config"), "{}", said.err);
    let lines = json_lines(&said.done());
    let which: Vec<_> = lines.iter().map(|l| (l["line"].as_u64().unwrap(), l["sample"].as_u64().unwrap())).collect();
    assert_eq!(which, [(1, 0), (1, 1), (3, 0), (3, 1), (4, 0), (4, 1)]);
    for line in &lines {
        assert_eq!(line["ids"].as_array().unwrap().len(), line["logprobs"].as_array().unwrap().len());
        assert!(line["text"].is_string() && ["stop", "length"].contains(&line["finish_reason"].as_str().unwrap()));
    }
    // Alone, on the same line, from standard input, with other threads.
    let third = format!("\n\n{}\n", LINES.lines().nth(2).unwrap());
    let args = ["generate", "--input", "-", "--max-new-tokens", "12", "--n", "2", "--seed", "5", "--threads", "1"];
    assert_eq!(json_lines(&haggle_with(dir.path(), &args, &third).done()), lines[2..4]);
    // A prompt that is typed is line 1.
    let typed = ["generate", "--prompt", "Thought: bid 55%\nTalk:", "--max-new-tokens", "12", "--json"];
    let file = haggle_with(dir.path(), &args[..5], third.trim_start()).done();
    assert_eq!(json_lines(&haggle(dir.path(), &typed).done()), json_lines(&file));
}

#[test]
fn greedy_answers_score_as_they_were_logged() {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("in.jsonl"), LINES).unwrap();
    let args = ["generate", "--input", "in.jsonl", "--max-new-tokens", "12", "--temperature", "0"];
    let line = json_lines(&haggle(dir.path(), &args).done())[2].clone();
    let ids = |value: &Value| value.as_array().unwrap().iter().map(|id| id.as_i64().unwrap()).collect::<Vec<_>>();
    let all = [vec![2, 300, 301, 1, 3, 400, 1, 4], ids(&line["ids"])].concat();
    let scored =
        haggle_with(dir.path(), &["score", "--model", "embedded", "--input", "-"], &json!({ "ids": all }).to_string());
    let scored = json_lines(&scored.done())[0]["logprobs"].as_array().unwrap()[8..].to_vec();
    assert_eq!(&scored, line["logprobs"].as_array().unwrap(), "the model's own, to the bit");
}

#[test]
fn text_is_printed_as_it_is_and_tokens_with_their_logprobs() {
    let dir = TempDir::new().unwrap();
    let args = ["generate", "--prompt", "Thought: bid 55%\nTalk:", "--max-new-tokens", "9", "--temperature", "0"];
    let json = json_lines(&haggle(dir.path(), &[&args[..], &["--json"]].concat()).done())[0].clone();
    let said = haggle(dir.path(), &args);
    assert_eq!(said.out, format!("{}\n", json["text"].as_str().unwrap()));
    assert_eq!(said.err.contains("cut at --max-new-tokens"), json["finish_reason"] == "length");
    let piped = haggle_with(dir.path(), &[&args[..1], &args[3..]].concat(), "Thought: bid 55%\nTalk:\n");
    assert_eq!(piped.done(), said.out, "standard input is a prompt, without the line's end");
    let tokens = haggle(dir.path(), &[&args[..], &["--logprobs"]].concat()).done();
    assert_eq!(tokens.lines().count(), json["ids"].as_array().unwrap().len());
    let three = haggle(dir.path(), &["generate", "--chat", "Hi", "--n", "3", "--max-new-tokens", "5"]).done();
    assert!(["[1 of 3]\n", "[2 of 3]\n", "[3 of 3]\n"].iter().all(|head| three.contains(head)), "{three}");
    let stop = json["text"].as_str().unwrap().chars().skip(3).take(3).collect::<String>();
    let cut = haggle(dir.path(), &[&args[..], &["--stop", &stop]].concat()).done();
    assert_eq!(cut.trim_end_matches('\n'), json["text"].as_str().unwrap().split(&stop).next().unwrap());
}

#[test]
fn a_bad_line_is_named_before_anything_runs() {
    let dir = TempDir::new().unwrap();
    let long = format!("{{\"ids\": {:?}}}", vec![300; 4096]);
    for (line, parts) in [
        ("{\"prompt\": ", &["column 11", "not JSON"][..]),
        ("[1]", &["want an object"]),
        ("{\"text\": \"a\"}", &["want one of `prompt`, `messages` and `ids`"]),
        ("{\"prompt\": \"a\", \"ids\": [1]}", &["holds `prompt` and `ids`"]),
        ("{\"prompt\": 3}", &["`prompt` must be a string, is a number"]),
        ("{\"prompt\": \"\"}", &["the prompt is empty"]),
        ("{\"ids\": [1, 2048]}", &["ids[1] is 2048", "0..2048"]),
        ("{\"ids\": [-1]}", &["ids[0] is -1"]),
        ("{\"ids\": [1.5]}", &["ids[0] is 1.5"]),
        ("{\"messages\": []}", &["`messages` is empty"]),
        ("{\"messages\": [{\"content\": \"a\"}]}", &["messages[0]", "`role`"]),
        ("{\"messages\": [{\"role\": \"user\", \"content\": [1]}]}", &["chat template: line 1"]),
        ("{\"prompt\": \"a\", \"temperature\": 0.5}", &["`temperature` holds for all lines", "option"]),
        (&long, &["a prompt of 4096 tokens leaves no room"]),
    ] {
        std::fs::write(dir.path().join("in.jsonl"), format!("{{\"prompt\": \"fine\"}}\n\n{line}\n")).unwrap();
        let said = haggle(dir.path(), &["generate", "--input", "in.jsonl"]);
        assert_eq!(said.out, "", "nothing is answered");
        said.refused(3, &[&["in.jsonl: line 3: "], parts].concat());
    }
    haggle(dir.path(), &["generate", "--input", "no.jsonl"]).refused(3, &["no.jsonl"]);
    haggle(dir.path(), &["generate", "--prompt", ""]).refused(3, &["--prompt: the prompt is empty"]);
    haggle(dir.path(), &["generate", "--prompt", "a", "--chat", "b"]).refused(2, &["--prompt", "--chat"]);
    haggle(dir.path(), &["generate", "--prompt", "a", "--top-p", "1.5"]).refused(2, &["top_p must be", "1.5"]);
    haggle(dir.path(), &["generate", "--prompt", "a", "--stop", ""]).refused(2, &["--stop"]);
    haggle(dir.path(), &["generate", "--prompt", "a", "--n", "0"]).refused(2, &["--n", "0"]);
    haggle(dir.path(), &["generate", "--model", "nowhere", "--prompt", "a"]).refused(3, &["nowhere"]);
    haggle_with(dir.path(), &["generate", "--input", "-"], "\n").refused(3, &["standard input: holds no line"]);
}

/// The embedded model as a folder, whose `generation_config.json` is `generation`.
fn folder(dir: &Path, generation: &Value) {
    std::fs::create_dir_all(dir).unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"] {
        std::fs::copy(format!("assets/tiny/{name}"), dir.join(name)).unwrap();
    }
    std::fs::write(dir.join("generation_config.json"), generation.to_string()).unwrap();
}

#[test]
fn the_folders_sampling_is_used_and_said_and_what_is_not_computed_is_refused() {
    let dir = TempDir::new().unwrap();
    let model = dir.path().join("m");
    let ask = |more: &[&str]| {
        haggle(
            dir.path(),
            &[&["generate", "--model", "m", "--chat", "Hi", "--json", "--max-new-tokens", "9"], more].concat(),
        )
    };
    folder(&model, &json!({ "do_sample": true, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "eos_token_id": 1 }));
    let said = ask(&[]);
    assert!(said.err.contains("generation_config.json: temperature 0.6, top_k 20, top_p 0.95\n"), "{}", said.err);
    let own = ["--temperature", "0.6", "--top-k", "20", "--top-p", "0.95"];
    let given = ask(&own);
    assert!(!given.err.contains("generation_config"), "{}", given.err);
    assert_eq!(given.done(), said.done());
    folder(&model, &json!({ "repetition_penalty": 1.1, "eos_token_id": [1, 5] }));
    let said = ask(&own);
    assert!(said.err.contains("generation_config.json: repetition_penalty 1.1\n"), "{}", said.err);
    folder(&model, &json!({ "no_repeat_ngram_size": 3, "temperature": 0.6, "eos_token_id": [1, 5] }));
    ask(&own).refused(3, &["generation_config.json", "no_repeat_ngram_size 3", "--no-defaults"]);
    let passed = ask(&["--no-defaults"]);
    assert!(!passed.err.contains("generation_config"), "{}", passed.err);
    folder(&model, &json!({ "eos_token_id": [1, 5] }));
    assert_eq!(passed.done(), ask(&[]).done());
    folder(&model, &json!({ "temperature": "hot" }));
    ask(&[]).refused(3, &["generation_config.json", "temperature must be a number"]);
    // No template: prompts, but no messages.
    folder(&model, &json!({ "eos_token_id": 1 }));
    std::fs::remove_file(model.join("chat_template.jinja")).unwrap();
    let mut config: Value =
        serde_json::from_slice(&std::fs::read("assets/tiny/tokenizer_config.json").unwrap()).unwrap();
    config["chat_template"] = Value::Null;
    std::fs::write(model.join("tokenizer_config.json"), config.to_string()).unwrap();
    haggle(dir.path(), &["generate", "--model", "m", "--prompt", "Hi", "--max-new-tokens", "3"]).done();
    ask(&[]).refused(3, &["messages need a chat template", "tokenizer_config.json"]);
}

/// SmolLM2's folder, where there is one; see tests/model/smollm2.rs.
fn smollm2() -> Option<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or("target".into(), PathBuf::from);
    let folder = std::env::var_os("HAGGLE_SMOLLM2").map_or(target.join("smollm2"), PathBuf::from);
    let there = folder.join("model.safetensors").exists();
    if !there {
        let required = std::env::var("HAGGLE_REQUIRE_MODELS").is_ok_and(|v| v == "1");
        assert!(!required, "HAGGLE_REQUIRE_MODELS=1, and {} holds no model", folder.display());
        let _ = writeln!(std::io::stderr(), "SKIPPED: no SmolLM2 in {} (tools/get_smollm2)", folder.display());
    }
    there.then(|| std::path::absolute(folder).unwrap())
}

#[test]
fn a_real_model_answers_messages_as_transformers_answers_them() {
    let Some(model) = smollm2() else { return };
    let golden: Value = serde_json::from_slice(&std::fs::read("tests/goldens/smollm2.json").unwrap()).unwrap();
    // The golden cuts a reply where two tokens are nearly as likely: those that came to their end are whole.
    let whole = |reply: &&Value| reply["reply"].as_array().unwrap().last() == Some(&json!(2));
    let want: Vec<&Value> = golden["replies"].as_array().unwrap().iter().filter(whole).collect();
    assert!(want.len() >= 5, "{}", want.len());
    let line =
        |reply: &&Value| json!({ "messages": [{ "role": "user", "content": reply["prompt"] }] }).to_string() + "\n";
    let (dir, lines) = (TempDir::new().unwrap(), want.iter().map(line).collect::<String>());
    let args = ["--input", "-", "--temperature", "0", "--max-new-tokens", "48"];
    let args = [&["generate", "--model", model.to_str().unwrap()], &args[..]].concat();
    let got = json_lines(&haggle_with(dir.path(), &args, &lines).done());
    assert_eq!(got.len(), want.len());
    for (got, want) in got.iter().zip(want) {
        assert_eq!((&got["ids"], &got["finish_reason"]), (&want["reply"], &json!("stop")), "{}", want["prompt"]);
        assert_eq!(format!("{}<|im_end|>", got["text"].as_str().unwrap()), want["text"], "without what ended it");
    }
}
