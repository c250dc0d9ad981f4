//! What the agent tells people and programs.
//!
//! In: what happened ([`metrics`]), how things stand ([`scrape`], [`status`]), what the node offers
//! ([`doctor`]). Out: Prometheus' text, `/healthz` and `/readyz` ([`serve`]), and the tables of the
//! `status`, `connections` and `doctor` commands.

pub mod catalogue;
pub mod labels;
pub mod metrics;
pub mod scrape;

#[cfg(test)]
mod metrics_tests;
