//! Any question that `gradlog influence` answers, answered by it: the numbers of the page are those of the command.

use super::limits::{IDS_MAX, TOP_MAX};
use super::parameters::Parameters;
use super::response::Status;
use crate::output::{Console, Stop, Watch};
use serde_json::json;
use std::ffi::OsString;
use std::path::Path;

/// What an address may say, with the name of its option. Nothing else reaches the command.
const VALUES: [&str; 20] = [
    "id",
    "ids",
    "class",
    "top",
    "normalize",
    "layers",
    "by",
    "nearest",
    "nearest-in",
    "probe-time",
    "optimizer",
    "method",
    "damping",
    "damping-absolute",
    "soft-threshold",
    "curvature",
    "numbers",
    "epochs",
    "steps",
    "at",
];
/// Options without a value.
const FLAGS: [&str; 3] = ["mean", "checkpoints", "by-layer"];

/// Numbers of a vector that a server takes: a matrix of their square is held.
const NUMBERS_MAX: u64 = 16_384;
/// Dampings at once: of each all scores are held.
const DAMPINGS_MAX: usize = 8;
/// Proponents and opponents where an address does not say how many.
const TOP: &str = "12";

/// A question for the command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InfluenceCall {
    /// What follows the run's folder.
    options: Vec<String>,
}

impl InfluenceCall {
    /// Reads what an address asks for.
    ///
    /// # Errors
    /// What it does not take.
    pub(crate) fn read(parameters: &mut Parameters) -> Result<Self, String> {
        let mut options = vec![format!("--probe={}", parameters.need("probe")?)];
        let mut has_count = false;
        for name in VALUES {
            let Some(value) = parameters.take(name) else { continue };
            let number = || value.parse::<u64>().map_err(|_| format!("`{name}={value}` is not a number that fits"));
            match name {
                "top" | "nearest" if number()? > TOP_MAX => return Err(format!("`{name}` is at most {TOP_MAX}")),
                "numbers" if number()? > NUMBERS_MAX => return Err(format!("`numbers` is at most {NUMBERS_MAX}")),
                "ids" if value.split(',').count() > IDS_MAX => return Err(format!("`ids` takes up to {IDS_MAX} ids")),
                "damping" | "damping-absolute" if value.split(',').count() > DAMPINGS_MAX => {
                    return Err(format!("`{name}` takes up to {DAMPINGS_MAX} dampings"))
                }
                _ => {}
            }
            has_count |= matches!(name, "top" | "nearest");
            options.push(format!("--{name}={value}"));
        }
        for name in FLAGS {
            match parameters.take(name).as_deref() {
                None => {}
                Some("" | "1") => options.push(format!("--{name}")),
                Some(_) => return Err(format!("`{name}` takes no value")),
            }
        }
        if !has_count {
            options.push(format!("--top={TOP}"));
        }
        options.push("--format=json".into());
        Ok(Self { options })
    }

    /// A name: calls of one name have one answer.
    pub(crate) fn name(&self) -> String {
        format!("influence/{}", self.options.join("\u{1f}"))
    }

    /// The arguments of the command that gives the same numbers.
    pub(crate) fn arguments(&self, run: &Path) -> Vec<OsString> {
        let start = ["gradlog".into(), "influence".into(), run.as_os_str().to_owned()];
        start.into_iter().chain(self.options.iter().map(OsString::from)).collect()
    }

    /// Runs the command in this process. The answer is `{"words": [..], "answer": {..}}`: what it says on stderr, and
    /// what it writes to stdout, byte by byte. It ends early when `stop` says so.
    ///
    /// # Errors
    /// What the command says, and whether the address or the run is to blame.
    pub(crate) fn run(&self, run: &Path, stop: &Stop) -> Result<Vec<u8>, (Status, String)> {
        let (mut out, mut words) = (Vec::new(), Vec::new());
        let watch = Watch::stopping(stop.clone());
        let mut console = Console { out: &mut out, words: &mut words, watch, terminal: None };
        let code = crate::execute(self.arguments(run), &mut console);
        let words = String::from_utf8_lossy(&words).into_owned();
        match code {
            0 | 3 => {
                let lines: Vec<&str> = words.lines().collect();
                let mut body = format!("{{\"words\":{},\"answer\":", json!(lines)).into_bytes();
                body.extend_from_slice(out.trim_ascii_end());
                body.push(b'}');
                Ok(body)
            }
            2 => Err((Status::Bad, last_line(&words))),
            _ => Err((Status::NoAnswer, last_line(&words))),
        }
    }
}

/// The error, without the words before it.
fn last_line(words: &str) -> String {
    let start = words.rfind("error: ").map_or(0, |at| at + "error: ".len());
    words[start..].trim_end().lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::request::Request;

    fn options(query: &[(&str, &str)]) -> Vec<String> {
        let parameters = query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let request = Request { method: "GET".into(), path: "/".into(), parameters, host: None };
        InfluenceCall::read(&mut Parameters::new(&request).unwrap()).unwrap().options
    }

    #[test]
    fn an_answer_has_twelve_rows_of_each_end_unless_the_address_says_how_many() {
        let few = ["--probe=a", "--id=3", "--top=12", "--format=json"];
        assert_eq!(options(&[("probe", "a"), ("id", "3")]), few);
        let own = ["--probe=a", "--id=3", "--nearest=5", "--format=json"];
        assert_eq!(options(&[("nearest", "5"), ("probe", "a"), ("id", "3")]), own);
        assert_eq!(options(&[("probe", "a"), ("top", "1000"), ("mean", "")])[1..3], ["--top=1000", "--mean"]);
    }
}
