//! What to type instead, where clap says only which argument is missing or unexpected.

use crate::choice::Choice;
use crate::report::printable;
use clap::error::ErrorKind;
use gradlog_analysis::Score;
use std::ffi::OsString;

/// A line that would have worked, for the mistakes that newcomers make. `line` begins with the program's name.
pub(crate) fn tip(error: &clap::Error, line: &[OsString]) -> Option<String> {
    let words: Vec<String> = line.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    match (words.get(1)?.as_str(), error.kind()) {
        ("scores", ErrorKind::MissingRequiredArgument) => {
            let names: Vec<&str> = Score::all().iter().map(Choice::word).collect();
            let (names, one) = (names.join(", "), Score::Forgetting);
            Some(format!("the scores are {names}; for example: gradlog scores RUN --score {one}"))
        }
        ("influence", ErrorKind::MissingRequiredArgument) => {
            let probe = words.iter().skip_while(|word| *word != "--probe").nth(1);
            Some(match probe.and_then(|probe| probe.split_once(':')) {
                Some((set, id)) => format!("write --probe {} --id {}", printable(set), printable(id)),
                None => "for example: gradlog influence RUN --probe test --id 0; gradlog info RUN lists the probe sets"
                    .into(),
            })
        }
        ("example", ErrorKind::MissingRequiredArgument | ErrorKind::UnknownArgument) => {
            let id = words.iter().skip(2).find(|word| word.bytes().all(|byte| byte.is_ascii_digit()));
            let id = id.filter(|id| !id.is_empty()).map_or("0", String::as_str);
            Some(format!("for example: gradlog example RUN --id {id}"))
        }
        _ => None,
    }
}
