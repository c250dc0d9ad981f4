//! One drain: what it promises ([`contract`]), when it ends ([`policy`], pure), and the task that runs it.

pub mod contract;
pub mod policy;
