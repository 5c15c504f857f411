//! The names and values of an address: each is asked for once, and what nobody asks for is refused.

use super::limits::IDS_MAX;
use super::request::Request;
use std::str::FromStr;

/// What stands behind the question mark.
pub(crate) struct Parameters {
    left: Vec<(String, String)>,
}

impl Parameters {
    /// Those of a request.
    ///
    /// # Errors
    /// That a name stands there twice.
    pub(crate) fn new(request: &Request) -> Result<Self, String> {
        let left = request.parameters.clone();
        for (at, (name, _)) in left.iter().enumerate() {
            if left[..at].iter().any(|(other, _)| other == name) {
                return Err(format!("`{name}` stands in the address twice"));
            }
        }
        Ok(Self { left })
    }

    pub(crate) fn take(&mut self, name: &str) -> Option<String> {
        let at = self.left.iter().position(|(known, _)| known == name)?;
        Some(self.left.remove(at).1)
    }

    pub(crate) fn need(&mut self, name: &str) -> Result<String, String> {
        self.take(name).ok_or_else(|| format!("the address lacks `{name}=`"))
    }

    pub(crate) fn number<T: FromStr>(&mut self, name: &str) -> Result<Option<T>, String> {
        let text = self.take(name);
        text.map(|text| text.parse().map_err(|_| format!("`{name}={text}` is not a number that fits"))).transpose()
    }

    /// Ids with commas between them, up to the limit, in their order.
    pub(crate) fn ids(&mut self) -> Result<Vec<u64>, String> {
        let text = self.need("ids")?;
        let ids: Result<Vec<u64>, _> = text.split(',').take(IDS_MAX + 1).map(str::parse).collect();
        match ids {
            Ok(ids) if ids.len() <= IDS_MAX => Ok(ids),
            Ok(_) => Err(format!("`ids` takes up to {IDS_MAX} ids")),
            Err(_) => Err("`ids` takes ids with commas between them".into()),
        }
    }

    /// Refuses what is left.
    pub(crate) fn end(self) -> Result<(), String> {
        match self.left.first() {
            Some((name, _)) => Err(format!("`{name}` is unknown here")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(pairs: &[(&str, &str)]) -> Result<Parameters, String> {
        let parameters = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Parameters::new(&Request { method: "GET".into(), path: "/".into(), parameters, host: None })
    }

    #[test]
    fn each_name_stands_once_and_is_known() {
        let mut found = parameters(&[("id", "3"), ("n", "x"), ("ids", "1,2,18446744073709551615")]).unwrap();
        assert_eq!(found.number::<u64>("id"), Ok(Some(3)));
        assert_eq!(found.number::<u64>("id"), Ok(None));
        assert!(found.number::<u64>("n").is_err());
        assert_eq!(found.ids(), Ok(vec![1, 2, u64::MAX]));
        found.end().unwrap();
        assert!(parameters(&[("id", "3"), ("id", "4")]).is_err());
        assert!(parameters(&[("what", "3")]).unwrap().end().unwrap_err().contains("`what`"));
        for wrong in ["", "1,,2", "-1", "1.5", "18446744073709551616", &["1"; IDS_MAX + 1].join(",")] {
            assert!(parameters(&[("ids", wrong)]).unwrap().ids().is_err(), "{wrong:.20}");
        }
    }
}
