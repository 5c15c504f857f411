//! The command as a process of its own.

use std::process::Command;

/// What a call of the command said.
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Said {
    /// The output as JSON.
    pub fn json(&self) -> serde_json::Value {
        assert_eq!(self.code, Some(0), "{}", self.err);
        serde_json::from_str(&self.out).unwrap()
    }
}

/// Runs `gradlog` with these arguments.
pub fn gradlog(arguments: &[&str]) -> Said {
    let output = Command::new(env!("CARGO_BIN_EXE_gradlog-under-test")).args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}
