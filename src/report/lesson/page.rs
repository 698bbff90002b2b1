//! A lesson as a page: each token a word that tells id, logprob and advantage, coloured by what it was taught.

use super::{Lesson, Passage, Token};
use crate::report::parts::escape;

/// The whole page; it loads nothing.
pub fn page(lesson: &Lesson) -> String {
    let facts: String = lesson.facts.iter().map(|(name, value)| format!("<dt>{name}<dd>{}\n", escape(value))).collect();
    let most = lesson.passages.iter().flat_map(|p| &p.tokens).filter_map(|t| t.loss).map(|l| l.advantage.abs());
    let most = most.fold(f32::MIN_POSITIVE, f32::max);
    let passages: String = lesson.passages.iter().map(|p| passage(p, most)).collect();
    let (place, ends) = (escape(&lesson.place), escape(&lesson.ends()));
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><title>haggle: {place}</title>\n<style>{CSS}</style></head><body><main>\n<h1>{place}</h1>\n\
         <dl>\n{facts}</dl>\n<p>Grey was heard and carries no loss. What was sampled carries loss: green where its advantage is \
         above 0, red below, the stronger the more; underlined where its probability was below a tenth. Point at a token for \
         its id, logprob and advantage.</p>\n{passages}<p>{ends}.</p>\n</main></body></html>\n"
    )
}

fn passage(passage: &Passage, most: f32) -> String {
    let class = if passage.sampled { "said" } else { "heard" };
    let tokens: String = passage.tokens.iter().map(|t| token(t, most)).collect();
    format!("<pre class=\"{class}\">{tokens}</pre>\n")
}

fn token(token: &Token, most: f32) -> String {
    let text = escape(&token.text);
    let Some(loss) = token.loss else {
        return format!("<span title=\"id {}, loss 0\">{text}</span>", token.id);
    };
    let colour = if loss.advantage > 0.0 { "40,160,70" } else { "210,50,50" };
    let unlikely = if loss.logprob < UNLIKELY { " class=\"unlikely\"" } else { "" };
    format!(
        "<span{unlikely} style=\"background:rgba({colour},{:.2})\" title=\"id {}, loss 1, logprob {:.4}, advantage \
         {:+.4}\">{text}</span>",
        0.6 * loss.advantage.abs() / most,
        token.id,
        loss.logprob,
        loss.advantage,
    )
}

/// The logprob of a tenth.
pub const UNLIKELY: f32 = -std::f32::consts::LN_10;

const CSS: &str = "
body{font:16px/1.5 system-ui,sans-serif;color:#222;background:#fff;max-width:1100px;margin:2rem auto;padding:0 1rem;overflow-wrap:anywhere}
h1{font-size:1.3rem}dl{display:grid;grid-template-columns:max-content 1fr;gap:.1rem 1rem}dt{color:#5a5a5a}dd{margin:0}
pre{white-space:pre-wrap;padding:.6rem .8rem;border-left:3px solid #ddd;margin:.5rem 0;font-size:.9rem}
pre.heard{color:#666}pre.said{border-color:#1f5c99}.unlikely{text-decoration:underline}
span:hover{outline:1px solid currentColor}
@media(prefers-color-scheme:dark){body{color:#eee;background:#161616}dt,pre.heard{color:#aaa}pre{border-color:#444}}
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::lesson::Loss;

    #[test]
    fn every_token_tells_what_it_was_taught_and_no_text_is_markup() {
        let token = |id, text: &str, loss| Token { id, text: text.into(), special: id == 1, loss };
        let loss = |logprob, advantage| Some(Loss { logprob, advantage });
        let said = vec![
            token(5, "<b>", loss(-0.5, 0.25)),
            token(6, "x", loss(-3.0, -0.5)),
            token(1, "<|end|>", loss(-0.01, 0.25)),
        ];
        let passages = vec![
            Passage { tokens: vec![token(3, "<|user|>", None)], sampled: false },
            Passage { tokens: said, sampled: true },
        ];
        let lesson = Lesson { place: "a<b".into(), facts: vec![("product", "<i>".into())], passages };
        let page = page(&lesson);
        assert!(!page.contains("<b>") && !page.contains("<i>") && page.contains("a&lt;b"), "{page}");
        assert!(page.contains("title=\"id 3, loss 0\">&lt;|user|&gt;"), "{page}");
        assert!(
            page.contains("rgba(40,160,70,0.30)\" title=\"id 5, loss 1, logprob -0.5000, advantage +0.2500\""),
            "{page}"
        );
        assert!(page.contains("class=\"unlikely\" style=\"background:rgba(210,50,50,0.60)"), "{page}");
        assert!(
            page.contains("id 1, loss 1, logprob -0.0100") && page.contains("1 of 1 turns end with a token"),
            "{page}"
        );
    }
}
