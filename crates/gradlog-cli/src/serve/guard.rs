//! Who may ask: the token in the address, and the name by which the server was called.

use std::net::IpAddr;
use subtle::ConstantTimeEq;

/// Bytes of a token.
const TOKEN_BYTES: usize = 16;

/// A secret that stands in the address of the server.
#[derive(Clone)]
pub(crate) struct Token(String);

impl Token {
    /// A new one, of the system's random numbers.
    ///
    /// # Errors
    /// That the system has none.
    pub(crate) fn draw() -> Result<Self, getrandom::Error> {
        let mut bytes = [0u8; TOKEN_BYTES];
        getrandom::fill(&mut bytes)?;
        Ok(Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
    }

    pub(crate) fn text(&self) -> &str {
        &self.0
    }

    /// Whether this is the token. How long that takes does not depend on where they differ.
    pub(crate) fn matches(&self, other: &str) -> bool {
        self.0.as_bytes().ct_eq(other.as_bytes()).into()
    }
}

/// The names by which the server may be called.
///
/// A page of another site can make its own name lead to this machine (DNS rebinding). Its requests then have that name
/// in the header `Host`. A number is no name, and `localhost` is not theirs to move, so that these are always allowed.
/// The port is not looked at: behind a tunnel it is another.
#[derive(Debug, Clone)]
pub(crate) struct Hosts {
    /// The name that was given to listen at, if it was one.
    pub own: Option<String>,
}

impl Hosts {
    pub(crate) fn allow(&self, host: &str) -> bool {
        let name = without_port(host);
        let number = name.trim_start_matches('[').trim_end_matches(']');
        number.parse::<IpAddr>().is_ok()
            || name.eq_ignore_ascii_case("localhost")
            || self.own.as_ref().is_some_and(|own| own.eq_ignore_ascii_case(name))
    }
}

/// The host without its port, if it has one.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            // `::1` without brackets is a number with colons.
            if name.contains(':') && !name.starts_with('[') {
                host
            } else {
                name
            }
        }
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_matches_itself_alone() {
        let (one, other) = (Token::draw().unwrap(), Token::draw().unwrap());
        assert_eq!(one.text().len(), 32);
        assert!(one.matches(one.text()) && !one.matches(other.text()));
        for wrong in
            ["", "x", &one.text()[1..], &format!("{}0", one.text()), &one.text().to_uppercase().replace('A', "a")]
        {
            assert!(!one.matches(wrong) || wrong == one.text(), "{wrong}");
        }
    }

    #[test]
    fn names_of_other_sites_are_refused() {
        let own = Hosts { own: Some("box.lan".into()) };
        for good in
            ["127.0.0.1", "127.0.0.1:80", "localhost:9", "LOCALHOST", "[::1]:8000", "[::1]", "10.1.2.3:1", "Box.Lan:5"]
        {
            assert!(own.allow(good), "{good}");
        }
        for bad in [
            "evil.example",
            "evil.example:8000",
            "127.0.0.1.evil.example",
            "localhost.evil.example:1",
            "",
            ":80",
            "box.lan.evil:5",
        ] {
            assert!(!own.allow(bad), "{bad}");
        }
        assert!(!Hosts { own: None }.allow("box.lan"));
    }
}
