//! Who may enter: everybody who reaches the port, or the holder of a secret.
//!
//! A server that another program started for itself alone (`mobula serve --embedded`)
//! listens on loopback, where every user of the machine can reach it, and whoever calls it
//! may run Python as its owner. So its program shows a secret with every call, in the
//! header `x-mobula-token`. It stands beside `authorization`, which says whose session a
//! call is in. Only a hash is kept, whose comparison takes the same time whatever differs.

use tonic::service::Interceptor;
use tonic::{Code, Request, Status};

use crate::status::refuse;

/// The header that has the secret.
const HEADER: &str = "x-mobula-token";

/// Looks at every call of a client before anything else does.
#[derive(Debug, Clone)]
pub struct Entry(Option<blake3::Hash>);

impl Entry {
    /// Lets everybody in.
    pub fn open() -> Self {
        Self(None)
    }

    /// Lets those in who show `secret`.
    pub fn guarded(secret: &str) -> Self {
        Self(Some(blake3::hash(secret.as_bytes())))
    }
}

impl Interceptor for Entry {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let Some(wanted) = self.0 else {
            return Ok(request);
        };
        let shown = request.metadata().get(HEADER);
        match shown.map(|value| blake3::hash(value.as_bytes())) {
            Some(shown) if shown == wanted => Ok(request),
            _ => Err(refuse(
                Code::Unauthenticated,
                "this server belongs to the program that started it. Start your own: mobula serve",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_token(token: Option<&str>) -> Request<()> {
        let mut request = Request::new(());
        if let Some(token) = token {
            let value = token.parse().unwrap();
            request.metadata_mut().insert(HEADER, value);
        }
        request
    }

    #[test]
    fn only_the_holder_of_the_secret_enters() {
        let mut entry = Entry::guarded("a secret of some length");
        assert!(
            entry
                .call(with_token(Some("a secret of some length")))
                .is_ok()
        );
        for wrong in [None, Some(""), Some("a secret of some lengt"), Some("x")] {
            let refused = entry.call(with_token(wrong)).unwrap_err();
            assert_eq!(refused.code(), Code::Unauthenticated);
        }
        assert!(Entry::open().call(with_token(None)).is_ok());
    }
}
