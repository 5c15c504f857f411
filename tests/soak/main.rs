//! The harnesses that harm: processes killed, disks full, queues flooded (FORMAT.md, "Recovery"; README, "What is
//! promised").
//!
//! ```text
//! cargo test --release --test soak                                          a few seconds of each
//! cargo test --release --test soak -- --kills 500 --json kills.json         the kill harness alone
//! cargo test --release --test soak -- --visits 10000000 --json load.json    the load alone
//! cargo test --release --test soak -- disk                                  the parts whose name contains a word
//! ```
//!
//! The binary is its own child: a variable in the environment says which part it plays. Unix only, as signals are.

#[cfg(unix)]
mod child;
#[cfg(unix)]
mod command;
#[cfg(unix)]
mod harm;
#[cfg(unix)]
mod kill;
#[cfg(unix)]
mod load;
#[cfg(unix)]
#[allow(dead_code)]
#[path = "../../benches/overhead/memory.rs"]
mod memory;
#[cfg(unix)]
mod no_room;
#[cfg(unix)]
mod parts;
#[cfg(unix)]
mod reading;
#[cfg(unix)]
mod training;

/// The environment variable that says which part a child plays.
#[cfg(unix)]
const ROLE: &str = "GRADLOG_SOAK_ROLE";

#[cfg(unix)]
#[global_allocator]
static ALLOCATOR: memory::Counting<std::alloc::System> = memory::Counting(std::alloc::System);

#[cfg(unix)]
fn main() -> anyhow::Result<std::process::ExitCode> {
    match std::env::var(ROLE) {
        Ok(role) => parts::play(&role).map(|()| std::process::ExitCode::SUCCESS),
        Err(_) => parts::run(),
    }
}

#[cfg(not(unix))]
fn main() {
    println!("test result: ok. 0 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out (needs Unix)");
}
