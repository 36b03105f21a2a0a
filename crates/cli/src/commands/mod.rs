//! The commands, one file each.

pub(crate) mod append;
pub(crate) mod bench;
pub(crate) mod completions;
pub(crate) mod create;
pub(crate) mod doctor;
pub(crate) mod info;
pub(crate) mod latency;
pub(crate) mod ls;
pub(crate) mod man;
pub(crate) mod peer;
pub(crate) mod pop;
pub(crate) mod pump;
pub(crate) mod record;
pub(crate) mod replay;
pub(crate) mod rm;
pub(crate) mod run;
pub(crate) mod serve;
pub(crate) mod stat;
pub(crate) mod tail;
pub(crate) mod top;
