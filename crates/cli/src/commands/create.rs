//! `syncq create`: a new queue.

use crate::fail::{DONE, Fail, Outcome};
use crate::measure;
use crate::target::Target;
use syncq::{Error, Overflow, Queue};

/// Make a queue, with all its memory
#[derive(Debug, clap::Args)]
pub(crate) struct Create {
    #[command(flatten)]
    target: Target,
    /// Size of the ring: a power of two from 4k; messages are at most this long together
    #[arg(short, long, value_name = "SIZE", value_parser = measure::size, default_value = "1M")]
    capacity: u64,
    /// How many members there can be at a time
    #[arg(short, long, value_name = "N", default_value_t = 64)]
    slots: u32,
    /// Permission bits: who may read may observe, who may also write may take part
    #[arg(short, long, value_parser = measure::mode, default_value = "600")]
    mode: u32,
    /// Overwrite the oldest messages when the ring is full, instead of making writers wait
    #[arg(long)]
    lossy: bool,
    /// Allow one writer at a time
    #[arg(long)]
    single_writer: bool,
    /// Give every message the time of its append
    #[arg(long)]
    timestamps: bool,
    /// Let the last member that leaves remove the queue
    #[arg(long)]
    unlink_on_last_leave: bool,
    /// Be content with a queue that is there already, whatever its options
    #[arg(long)]
    if_missing: bool,
}

impl Create {
    pub(crate) fn run(self) -> Outcome {
        let overflow = if self.lossy { Overflow::Lossy } else { Overflow::Block };
        let options = Queue::options()
            .capacity(self.capacity)
            .slots(self.slots)
            .mode(self.mode)
            .overflow(overflow)
            .single_writer(self.single_writer)
            .timestamps(self.timestamps)
            .unlink_on_last_leave(self.unlink_on_last_leave);
        match self.target.create(&options) {
            Ok(_) => Ok(DONE),
            Err(Error::AlreadyExists { .. }) if self.if_missing => {
                self.target.open()?;
                Ok(DONE)
            }
            Err(error) => Err(Fail::from(error)),
        }
    }
}
