//! What pages are made of: the frame, tables in boxes, text that is no markup, the look.

use crate::eval::tables::Cells;

/// A page that loads nothing but, where it is asked to, itself again.
pub fn document(title: &str, body: &str, again_s: Option<u32>) -> String {
    let again = again_s.map_or(String::new(), |s| format!("<meta http-equiv=\"refresh\" content=\"{s}\">"));
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\">{again}<title>haggle: {}</title>\n<style>{CSS}</style></head><body><main>\n{body}</main></body></html>\n",
        escape(title)
    )
}

/// Cells as a table in a box of its own, which scrolls where the page is narrower; the first row is the head.
pub fn boxed(title: &str, cells: &Cells) -> String {
    let Some((head, rows)) = cells.split_first() else { return String::new() };
    let line = |tag: &str, line: &Vec<String>| {
        let cell = |cell: &String| format!("<{tag}>{}</{tag}>", escape(cell));
        // A head without a name is no head.
        let cells: String = line.iter().map(cell).collect();
        format!("<tr>{}</tr>\n", cells.replace("<th></th>", "<td></td>"))
    };
    let rows: String = rows.iter().map(|row| line("td", row)).collect();
    format!(
        "<div class=\"box\" role=\"region\" tabindex=\"0\" aria-label=\"{}\"><table>\n{}{rows}</table></div>\n",
        escape(title),
        line("th", head)
    )
}

/// Text as HTML text.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The look of a page.
pub const CSS: &str = "
body{font:16px/1.5 system-ui,sans-serif;color:#222;background:#fff;max-width:1280px;margin:2rem auto;padding:0 1.5rem}
h1{font-size:1.7rem;margin-bottom:0;overflow-wrap:anywhere}h2{margin-top:2.2rem;border-bottom:1px solid #ddd}h3{margin-bottom:.3rem}
p.warning{border-left:4px solid #b00020;padding-left:.6rem}
small,.lead,figure p{color:#5a5a5a;font-weight:normal;font-size:.85rem}
.box{overflow-x:auto;max-width:100%}
table{border-collapse:collapse;font-size:.9rem}th,td{padding:.25rem .7rem;text-align:right;border-bottom:1px solid #eee;white-space:nowrap}
th{color:#555;font-weight:600}th:first-child,td:first-child{text-align:left}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(400px,100%),1fr));gap:1rem}
.headline{font-size:2.2rem;margin:.4rem 0 0}.headline span{font-size:1.3rem;white-space:nowrap}
figure{margin:0;border:1px solid #eee;border-radius:6px;padding:.6rem;min-width:0}figcaption{font-weight:600}figure p{margin:.2rem 0 0}
svg{width:100%;height:auto;background:#fff}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(400px,100%),1fr));gap:1rem}
section{border:1px solid #eee;border-radius:6px;padding:.2rem .8rem;min-width:0;overflow-wrap:anywhere}
.pair p{margin:.35rem 0;padding-left:.6rem;border-left:3px solid #1f5c99}.pair p.seller{border-color:#c8621c}
.pair i{color:#5f5f5f}.pair em{color:#b00020;font-size:.85rem}h4{margin:.5rem 0}
details{margin:.6rem 0}summary{cursor:pointer}
code{background:#f4f4f4;padding:.05rem .3rem;border-radius:3px}pre{background:#f8f8f8;padding:1rem;overflow:auto;max-width:100%;box-sizing:border-box}
@media(max-width:800px){body{padding:0 .7rem;overflow-wrap:anywhere}}
@media(prefers-color-scheme:dark){body{color:#ddd;background:#161616}h2,section,figure,th,td{border-color:#333}
small,.lead,figure p,th,.pair i{color:#aaa}code,pre{background:#222}.pair em{color:#ff9a9a}p.warning{border-color:#ff9a9a}
svg{filter:invert(1) hue-rotate(180deg);background:none}}
";
