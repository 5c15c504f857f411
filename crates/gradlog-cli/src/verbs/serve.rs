//! `gradlog serve`: the page of `gradlog report` from a server, which answers any question about the run.

use crate::arguments::EXIT_CODES;
use crate::error::CliError;
use crate::frame::{Asked, Content, Ending, Shown, Verb};
use crate::page::data::{self, Spec};
use crate::page::parts::{run_name, set_names};
use crate::serve::{App, Hosts, Server, Token};
use clap::Args;
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs};
use std::path::PathBuf;

/// Look at a run in a browser, from a small server on this machine
///
/// The page is that of `gradlog report`. The server computes what the page shows when somebody looks at it. So it
/// answers for every probe, every example and every method of `gradlog influence`, pages through all examples, and
/// follows a run that is still being written. It changes nothing: it answers GET alone. Ctrl-C ends it.
///
/// It listens on 127.0.0.1, and its address holds a token: other users of the machine and other web sites do not know
/// it. The port is made from the id of the run, so that the browser finds its verdicts again. From another machine use
/// `ssh -L`; --listen lets other machines connect directly, without encryption.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    /// Folder of the run, or of several runs on the same training set
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// What the examples look like: [SET=]idx:DIR, images:DIR/{id}.png, text:FILE.jsonl or csv:FILE
    #[arg(long, value_name = "DATA")]
    data: Vec<Spec>,
    /// Listen here: an address or a name of this machine, and a port where another is wanted
    #[arg(long, value_name = "ADDR[:PORT]", default_value = "127.0.0.1")]
    listen: String,
    /// The most gigabytes of memory for answers that are kept
    #[arg(long, value_name = "GB", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    memory: u32,
}

/// A server that is ready.
pub(crate) struct Ready {
    server: Server,
    app: App,
    words: Vec<String>,
}

impl Verb for Arguments {
    type Answer<'run> = Ready;

    fn runs(&self) -> &[PathBuf] {
        &self.runs
    }

    fn needs_folders(&self) -> Option<&'static str> {
        Some("`serve` follows runs on this machine, so it needs their folders; `report` reads an address")
    }

    fn check(&self) -> Result<(), CliError> {
        data::refuse_doubles(&self.data)?;
        Place::read(&self.listen).map(|_| ()).map_err(CliError::Arguments)
    }

    fn ask<'run>(&self, asked: &Asked<'run>) -> Result<Ready, CliError> {
        let names: Vec<String> = asked.runs.iter().map(|run| run_name(run)).collect();
        let app = App::new(self.runs.clone(), self.data.clone(), &names.join(", "), (self.memory as usize) << 30);
        // What is wrong with the data is said at once, and not to the browser.
        data::refuse_unknown_sets(&self.data, asked.run())?;
        for set in [None].into_iter().chain(set_names(asked.run())?.into_iter().map(Some)) {
            app.source(set.as_deref())?;
        }
        let place = Place::read(&self.listen).map_err(CliError::Arguments)?;
        let (listener, mut words) = place.bind(asked.run().manifest().run_id)?;
        let local = listener.local_addr()?;
        if !local.ip().is_loopback() {
            words.push(format!(
                "warning: {local} can be reached from other machines. Anybody with the address can read the run and the \
                 data of its examples, and nothing is encrypted on the way"
            ));
        }
        let token = Token::draw().map_err(|error| CliError::Write(std::io::Error::other(error)))?;
        Ok(Ready { server: Server::new(listener, token, Hosts { own: place.name }), app, words })
    }

    fn show<'run>(&'run self, _asked: &'run Asked<'run>, ready: Ready) -> Result<Shown<'run>, CliError> {
        let Ready { server, app, mut words } = ready;
        words.push("open this address in a browser; Ctrl-C ends the server".into());
        let content = Content::Written(Box::new(move |out| {
            writeln!(out, "http://{}/{}/", shown_place(server.place()?), server.token().text())?;
            out.flush()?;
            server.run(&app);
            Ok(Ending::default())
        }));
        Ok(Shown { words, content, ..Shown::default() })
    }
}

/// The address that a browser on this machine can open: of all addresses, the machine's own.
fn shown_place(place: SocketAddr) -> SocketAddr {
    let ip = match place.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]),
        ip => ip,
    };
    SocketAddr::new(ip, place.port())
}

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    host: String,
    port: Option<u16>,
    /// The host, if it is a name and no number.
    name: Option<String>,
}

impl Place {
    /// Reads `ADDR`, `ADDR:PORT` or `[ADDR]:PORT`.
    fn read(text: &str) -> Result<Self, String> {
        let wrong = || format!("--listen {text}: it is an address or a name, maybe with a colon and a port behind it");
        let (host, port) = match (text.parse::<IpAddr>(), text.rsplit_once(':')) {
            (Ok(ip), _) => (ip.to_string(), None),
            (Err(_), Some((host, port))) => (host.to_owned(), Some(port.parse().map_err(|_| wrong())?)),
            (Err(_), None) => (text.to_owned(), None),
        };
        let number = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        if number.is_empty() || number.contains(['/', ' ', '@']) {
            return Err(wrong());
        }
        let name = number.parse::<IpAddr>().is_err().then(|| number.clone());
        Ok(Self { host: number, port, name })
    }

    /// Binds the place. Without a port it is the run's own, or if that is taken any that is free.
    fn bind(&self, run_id: [u8; 16]) -> Result<(TcpListener, Vec<String>), CliError> {
        let bind = |port: u16| -> std::io::Result<TcpListener> {
            let places: Vec<SocketAddr> = (self.host.as_str(), port).to_socket_addrs()?.collect();
            TcpListener::bind(places.as_slice())
        };
        let failed =
            |port: u16| move |error| CliError::Listen { place: format!("{}:{port}", self.host), source: error };
        match self.port {
            Some(port) => Ok((bind(port).map_err(failed(port))?, Vec::new())),
            None => match bind(own_port(run_id)) {
                Ok(listener) => Ok((listener, Vec::new())),
                Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
                    let words = format!(
                        "note: port {} is in use, so this is another one: a browser keeps verdicts for each port",
                        own_port(run_id)
                    );
                    Ok((bind(0).map_err(failed(0))?, vec![words]))
                }
                Err(error) => Err(failed(own_port(run_id))(error)),
            },
        }
    }
}

/// A port that is always the same for a run. Systems hand out higher ones on their own.
fn own_port(run_id: [u8; 16]) -> u16 {
    let sum = run_id.iter().fold(0u32, |sum, byte| sum.wrapping_mul(257).wrapping_add(u32::from(*byte)));
    20_000 + (sum % 10_000) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_as_they_are_written() {
        let place = |text: &str| Place::read(text).map(|place| (place.host, place.port, place.name));
        let named = |host: &str, port, name: Option<&str>| Ok((host.into(), port, name.map(Into::into)));
        assert_eq!(place("127.0.0.1"), named("127.0.0.1", None, None));
        assert_eq!(place("0.0.0.0:80"), named("0.0.0.0", Some(80), None));
        assert_eq!(place("::1"), named("::1", None, None));
        assert_eq!(place("[::1]:8000"), named("::1", Some(8000), None));
        assert_eq!(place("box.lan:8000"), named("box.lan", Some(8000), Some("box.lan")));
        for wrong in ["", ":80", "a:b", "a:70000", "http://x", "a b"] {
            assert!(place(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_run_has_its_port_unless_it_is_taken() {
        let place = Place::read("127.0.0.1").unwrap();
        let id = [9; 16];
        let (first, words) = place.bind(id).unwrap();
        let is_own = first.local_addr().unwrap().port() == own_port(id);
        assert_eq!(is_own, words.is_empty());
        let (second, words) = place.bind(id).unwrap();
        assert_ne!(first.local_addr().unwrap(), second.local_addr().unwrap());
        assert!(words[0].contains("is in use"), "{words:?}");
        let taken = Place::read(&first.local_addr().unwrap().to_string()).unwrap();
        assert!(matches!(taken.bind(id), Err(CliError::Listen { .. })));
    }
}
