//! `Debug` for the messages that carry a secret: everything but the secret, so that no log or failed
//! assertion can show one.

use std::fmt;

use crate::v1::{EnrolRequest, SharePiece};

impl fmt::Debug for EnrolRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnrolRequest")
            .field("protocol", &self.protocol)
            .field("institution", &self.institution)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for SharePiece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharePiece")
            .field("dealer", &self.dealer)
            .field("pair_mask", &self.pair_mask)
            .finish_non_exhaustive()
    }
}
