//! What the agent tells people and programs.
//!
//! In: what happened ([`metrics`]), how things stand ([`scrape`], [`status`]), what the node offers
//! ([`doctor`]). Out: Prometheus' text, `/healthz` and `/readyz` ([`serve`]), and the tables of the
//! `status`, `connections` and `doctor` commands.

pub mod catalogue;
pub mod client;
pub mod doctor;
pub mod events;
pub mod labels;
pub mod metrics;
pub mod ready;
pub mod render;
pub mod scrape;
pub mod serve;
pub mod show;
pub mod status;
mod table;

#[cfg(test)]
mod metrics_tests;
#[cfg(test)]
mod monitoring_tests;
