//! The policy and the ledger together, against the design.

mod crowds;
mod decisions;
mod exhaustive;
mod histories;
mod model;
mod sent_away;
mod settling;
