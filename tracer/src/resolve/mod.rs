//! From ids and addresses to names: symbols, processes, cgroups.

pub mod cgroup_path;
pub mod cgroups;
pub mod containers;
pub mod machine;
mod modules;
pub mod owners;
pub mod roles;
pub mod symbols;
