//! Which queue a command is about: a name, or a path where it has a slash.

use crate::fail::Fail;
use syncq::{Observer, Queue, QueueOptions, Start};

/// The queue of a command.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Target {
    /// Name of the queue, or a path (with a slash) for one in a file of its own
    #[arg(value_name = "QUEUE")]
    pub(crate) queue: String,
    #[command(flatten)]
    pub(crate) trust: Trust,
}

/// Whose queues may be opened.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub(crate) struct Trust {
    /// Also open queues that belong to another user
    #[arg(long)]
    pub(crate) any_owner: bool,
}

fn is_path(queue: &str) -> bool {
    queue.contains('/')
}

impl Target {
    pub(crate) fn new(queue: &str, trust: Trust) -> Self {
        Target {
            queue: queue.to_owned(),
            trust,
        }
    }

    fn options(&self) -> QueueOptions {
        Queue::options().any_owner(self.trust.any_owner)
    }

    /// Opens it for taking part.
    pub(crate) fn open(&self) -> Result<Queue, Fail> {
        Ok(match is_path(&self.queue) {
            true => self.options().open_at(&self.queue)?,
            false => self.options().open(&self.queue)?,
        })
    }

    /// Opens it, or makes it where it is missing.
    pub(crate) fn open_or_create(&self) -> Result<Queue, Fail> {
        match self.open() {
            Err(_) if !is_path(&self.queue) => Ok(self.options().open_or_create(&self.queue)?),
            answer => answer,
        }
    }

    /// Maps it read-only, taking no part.
    pub(crate) fn observe(&self, start: Start) -> syncq::Result<Observer> {
        match is_path(&self.queue) {
            true => self.options().observe_at(&self.queue, start),
            false => self.options().observe(&self.queue, start),
        }
    }

    /// Makes it.
    pub(crate) fn create(&self, options: &QueueOptions) -> syncq::Result<Queue> {
        match is_path(&self.queue) {
            true => options.create_at(&self.queue),
            false => options.create(&self.queue),
        }
    }

    pub(crate) fn is_path(&self) -> bool {
        is_path(&self.queue)
    }
}
