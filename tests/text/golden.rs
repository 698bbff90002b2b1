//! The embedded tokenizer and template give the ids that transformers gives (tools/check_transformers.py --golden).

use haggle::embedded;
use haggle::text::{Message, Role, Transcript};
use serde_json::Value;

#[test]
fn transformers_gives_the_same_ids() {
    let chat = embedded::chat().unwrap();
    let golden = std::fs::read_to_string("tests/goldens/text/dialogues.jsonl").unwrap();
    let rows: Vec<Value> = golden.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(rows.len() > 10 && golden.contains("日本"));
    for row in &rows {
        let text = |m: &Value| m["content"].as_str().unwrap().to_string();
        let said = row["messages"].as_array().unwrap();
        let mut transcript = Transcript::new(&chat, &text(&said[0])).unwrap();
        for turn in said[1..].chunks(2) {
            transcript.push_incoming(&chat, &text(&turn[0])).unwrap();
            let mut ids = chat.tokenizer.encode(&text(&turn[1])).unwrap();
            ids.push(chat.end());
            transcript.push_sampled(&ids, &vec![0.0; ids.len()]);
        }
        let want: Vec<i32> = row["ids"].as_array().unwrap().iter().map(|id| id.as_i64().unwrap() as i32).collect();
        assert_eq!(transcript.ids(), want);
        let roles = [Role::System, Role::User, Role::Assistant];
        let role = |m: &Value| roles.into_iter().find(|r| serde_json::json!(r) == m["role"]).unwrap();
        let messages: Vec<Message> = said.iter().map(|m| Message::new(role(m), text(m))).collect();
        assert_eq!(chat.tokenizer.decode(&want).unwrap(), chat.render(&messages, false).unwrap());
    }
}
