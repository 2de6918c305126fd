//! The shadow MMU against a second opinion.
#![allow(dead_code, reason = "what uses the oracle comes next")]

mod oracle;
