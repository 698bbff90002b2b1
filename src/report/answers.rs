//! Replies of a set task on a page: what was asked, and the candidates before and after training with what each is worth.

use super::files::Answer;
use super::parts::escape;

/// Questions shown.
const SHOWN: usize = 3;

/// The same questions before and after training, evenly spread over the held-out products; nothing where there are none.
pub fn answers(all: &[Answer]) -> String {
    let (Some(first), Some(last)) = (all.first(), all.last()) else { return String::new() };
    let of = |model: &str| all.iter().filter(|answer| answer.model == model).collect::<Vec<_>>();
    let (before, after) = (of(&first.model), of(&last.model));
    let n = before.len().min(after.len());
    if first.model == last.model || n == 0 {
        return String::new();
    }
    let shown = (0..SHOWN.min(n)).map(|i| i * n / SHOWN.min(n)).map(|i| {
        let about = before[i];
        let asked = match about.asked.trim() {
            "" => String::new(),
            text => format!(
                "<details><summary>what was asked</summary><pre tabindex=\"0\">{}</pre></details>\n",
                escape(text)
            ),
        };
        format!(
            "<h3>{} <small>{}</small></h3>\n{asked}<div class=\"pair\">{}{}</div>\n",
            escape(if about.title.is_empty() { &about.product } else { &about.title }),
            escape(if about.title.is_empty() { "" } else { &about.product }),
            answer("Before", about),
            answer("After", after[i])
        )
    });
    format!("<h2>The same questions, before and after training</h2>\n{}", shown.collect::<String>())
}

fn answer(title: &str, answer: &Answer) -> String {
    let why = answer.malformed.as_ref().map_or(String::new(), |why| format!(", no set: {why}"));
    let mut html = format!("<section><h4>{title}: reward {:.2}{}</h4>\n", answer.reward, escape(&why));
    for candidate in &answer.candidates {
        html += &format!(
            "<p class=\"buyer\">{} <code>utility {:.2}</code></p>\n",
            escape(candidate.text.trim()),
            candidate.utility
        );
    }
    if answer.candidates.is_empty() {
        html += &format!("<p class=\"buyer\">{}</p>\n", escape(answer.reply.trim()));
    }
    html + "</section>"
}
