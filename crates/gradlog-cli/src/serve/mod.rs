//! `gradlog serve`: the page from a small server, which answers what a file cannot hold.
//!
//! `server` accepts connections and `request`, `response` speak HTTP, within `limits`. `guard` says who may ask. `app`
//! turns an address into a question, and `desk` sees to it that few are computed at a time and none twice. The answers
//! are those of `page/parts`, of the verbs, and of `table` (all examples, sorted and cut into pages).

mod app;
mod desk;
mod examples;
mod guard;
mod influence;
mod limits;
mod panels;
mod parameters;
mod request;
mod response;
mod server;
mod state;
mod table;
#[cfg(test)]
mod tests;

pub(crate) use app::App;
pub(crate) use guard::{Hosts, Token};
pub(crate) use server::Server;
