//! The ledger, row by row of the design's table.

mod calls;
mod closing;
mod fixtures;
mod inferred;
mod joining;
mod seen;
mod views;
