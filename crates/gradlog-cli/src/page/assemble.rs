//! One HTML file of parts, styles and scripts.
//!
//! The content security policy allows the one script and the one style of the page, by their hashes, and pictures that
//! are in the page itself. Everything from a run is JSON in a block that no browser runs, with `<`, `>` and `&`
//! escaped, so that no text can end the block.

use super::arrays::base64;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::io::{self, Write};

const FRAME: &str = include_str!("web/page.html");

/// Styles in their order.
const STYLES: [&str; 3] =
    [include_str!("web/base.css"), include_str!("web/panels.css"), include_str!("web/example.css")];

/// Scripts in their order: each uses what stands before it.
const SCRIPTS: [&str; 19] = [
    include_str!("web/source.js"),
    include_str!("web/served.js"),
    include_str!("web/dom.js"),
    include_str!("web/cards.js"),
    include_str!("web/charts.js"),
    include_str!("web/verdicts.js"),
    include_str!("web/example.js"),
    include_str!("web/overview.js"),
    include_str!("web/curves.js"),
    include_str!("web/suspects.js"),
    include_str!("web/map.js"),
    include_str!("web/methods.js"),
    include_str!("web/probes.js"),
    include_str!("web/ends.js"),
    include_str!("web/groups.js"),
    include_str!("web/scores.js"),
    include_str!("web/keys.js"),
    include_str!("web/follow.js"),
    include_str!("web/page.js"),
];

/// The script of a page: all files in one function, so that nothing of it is global.
fn script() -> String {
    format!("(() => {{\n\"use strict\";\n{}}})();\n", SCRIPTS.join("\n"))
}

/// Text that is safe as HTML.
fn escape_html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() => out.push(char::REPLACEMENT_CHARACTER),
            c => out.push(c),
        }
    }
    out
}

/// JSON that cannot end the block it stands in.
fn escape_json(value: &Value) -> String {
    value.to_string().replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

fn hash(text: &str) -> String {
    format!("'sha256-{}'", base64(&Sha256::digest(text.as_bytes())))
}

/// Writes the page of some named parts.
///
/// # Errors
/// What `out` says.
pub(crate) fn write_page(out: &mut dyn Write, title: &str, parts: &[(&str, Value)]) -> io::Result<()> {
    let (script, style) = (script(), STYLES.join("\n"));
    write_document(out, title, parts, (&script, &style, &policy(&script, &style, "")))
}

/// The page without any part: it asks the server that it comes from.
pub(crate) struct ServedPage {
    pub html: Vec<u8>,
    /// The content security policy, for the header of the answer.
    pub policy: String,
}

impl ServedPage {
    pub(crate) fn new(title: &str) -> Self {
        let (script, style) = (script(), STYLES.join("\n"));
        let policy = policy(&script, &style, "connect-src 'self'; ");
        let mut html = Vec::new();
        // Writing to memory cannot fail.
        let parts = [("served", Value::Bool(true))];
        let _ = write_document(&mut html, &format!("{title}: gradlog"), &parts, (&script, &style, &policy));
        Self { html, policy: format!("{policy}; frame-ancestors 'none'") }
    }
}

fn policy(script: &str, style: &str, more: &str) -> String {
    format!(
        "default-src 'none'; {more}img-src data:; style-src {}; script-src {}; base-uri 'none'; form-action 'none'",
        hash(style),
        hash(script)
    )
}

fn write_document(
    out: &mut dyn Write,
    title: &str,
    parts: &[(&str, Value)],
    (script, style, policy): (&str, &str, &str),
) -> io::Result<()> {
    // The frame is split at its marks, so that nothing that is put in is taken for a mark.
    let mut rest = FRAME;
    for (mark, text) in [("{{policy}}", policy), ("{{title}}", &escape_html(title)), ("{{style}}", style)] {
        let (before, after) = rest.split_once(mark).unwrap_or((rest, ""));
        write!(out, "{before}{text}")?;
        rest = after;
    }
    let (before, rest) = rest.split_once("{{parts}}").unwrap_or((rest, ""));
    out.write_all(before.as_bytes())?;
    for (name, value) in parts {
        writeln!(out, "<script type=\"application/json\" id=\"part-{name}\">{}</script>", escape_json(value))?;
    }
    let (before, after) = rest.split_once("{{script}}").unwrap_or((rest, ""));
    write!(out, "{before}{script}{after}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const EVIL: &str = "</script><script>alert(1)</script><!-- \" ' & \u{1} {{script}}";

    #[test]
    fn no_text_of_a_run_ends_its_block() {
        let mut page = Vec::new();
        write_page(&mut page, EVIL, &[("head", json!({ "name": EVIL, EVIL: 1 }))]).unwrap();
        let page = String::from_utf8(page).unwrap();
        assert!(!page.contains("alert(1)</script>") && !page.contains("<script>alert"));
        let block = page.split_once("id=\"part-head\">").unwrap().1.split_once("</script>").unwrap().0;
        assert!(!block.contains(['<', '>', '&']));
        assert_eq!(serde_json::from_str::<Value>(block).unwrap(), json!({ "name": EVIL, EVIL: 1 }));
        let title = page.split_once("<title>").unwrap().1.split_once("</title>").unwrap().0;
        assert!(title.contains("&lt;/script&gt;") && !title.contains(['"', '\'', '\u{1}']));
        // The frame, one block of data, one script.
        assert_eq!(page.matches("<script").count(), 2);
        assert_eq!(page.matches("</script>").count(), 2);
    }

    #[test]
    fn the_policy_names_the_script_and_the_style_that_are_there() {
        let mut page = Vec::new();
        write_page(&mut page, "a run", &[]).unwrap();
        let page = String::from_utf8(page).unwrap();
        let style = page.split_once("<style>").unwrap().1.split_once("</style>").unwrap().0;
        let script = page.rsplit_once("<script>").unwrap().1.rsplit_once("</script>").unwrap().0;
        assert!(page.contains(&format!("style-src {}; script-src {};", hash(style), hash(script))));
        assert!(page.contains("default-src 'none'") && !page.contains("unsafe-"));
        for outside in ["http://", "https://", "innerHTML", "eval(", "@import", "url("] {
            let found = page.replace("http://www.w3.org/2000/svg", "");
            assert!(!found.contains(outside), "the page holds `{outside}`");
        }
    }
}
