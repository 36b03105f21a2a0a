//! The commands, one file each.

pub(crate) mod append;
pub(crate) mod completions;
pub(crate) mod create;
pub(crate) mod doctor;
pub(crate) mod info;
pub(crate) mod ls;
pub(crate) mod man;
pub(crate) mod pop;
pub(crate) mod rm;
pub(crate) mod run;
pub(crate) mod stat;
pub(crate) mod tail;
