//! What `latency` and `bench` start as processes of their own: one that answers, one that writes, one that reads.

use crate::fail::{DONE, Outcome};
use crate::stop::{SLICE, Stop};
use crate::target::Target;
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use syncq::{Error, Wait};

/// How long a part may take to end when asked.
const LEAVING: Duration = Duration::from_secs(2);

/// The kinds of a measured round trip.
pub(crate) const PING: &str = "latency-ping";
pub(crate) const PONG: &str = "latency-pong";

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    Echo,
    Write,
    Read,
}

/// Take a part in a measurement
#[derive(Debug, clap::Args)]
pub(crate) struct Peer {
    part: Part,
    #[command(flatten)]
    target: Target,
    #[arg(long, default_value_t = 0)]
    size: usize,
    #[arg(long, default_value_t = 1)]
    batch: usize,
}

impl Peer {
    pub(crate) fn run(self, stop: &Stop) -> Outcome {
        // Whatever becomes of the process that measures: nothing is left running.
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        let queue = self.target.open()?;
        match self.part {
            Part::Echo => {
                let mut me = queue.join("latency-echo")?;
                while !stop.is_asked() {
                    let Some(ping) = me.pop(Wait::For(SLICE))? else {
                        continue;
                    };
                    if ping.kind() == PING {
                        let ping = ping.into_owned();
                        me.append(PONG, ping.body(), Wait::Forever)?;
                    }
                }
            }
            Part::Write => {
                let mut me = queue.writer("bench-writer")?;
                let body = vec![b'x'; self.size];
                let all = vec![("", body.as_slice()); self.batch];
                while !stop.is_asked() {
                    let appended = match all.as_slice() {
                        [(kind, body)] => me.append(kind, body, Wait::For(SLICE)).map(drop),
                        all => me.append_all(all.iter().copied(), Wait::For(SLICE)),
                    };
                    match appended {
                        Ok(()) | Err(Error::Full(_) | Error::Busy { .. }) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
            }
            Part::Read => {
                let mut me = queue.joining().sender("bench-reader").reader()?;
                while !stop.is_asked() {
                    match me.pop(Wait::For(SLICE)) {
                        Ok(_) | Err(Error::Lagged { .. }) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
            }
        }
        Ok(DONE)
    }
}

/// A process that plays a part, and ends when this goes.
#[derive(Debug)]
pub(crate) struct Player(Child);

impl Player {
    pub(crate) fn start(part: &str, target: &Target, options: &[String]) -> std::io::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["peer", part, &target.queue])
            .args(options)
            .stdin(Stdio::null());
        if target.trust.any_owner {
            command.arg("--any-owner");
        }
        Ok(Player(command.spawn()?))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Whether it has ended by itself, which it should not.
    pub(crate) fn has_failed(&mut self) -> bool {
        !matches!(self.0.try_wait(), Ok(None))
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        // Asked first, so that it leaves the queue and is not found dead in it.
        let pid = Pid::from_raw(self.0.id().cast_signed());
        if !self.has_failed() && kill(pid, Signal::SIGTERM).is_ok() {
            let end = Instant::now() + LEAVING;
            while !self.has_failed() && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
