//! `syncq serve`: the HTTP line service over a queue.

use crate::fail::{DONE, Fail, Outcome};
use crate::follow::{self, From, Limits, Sink};
use crate::lines::Appender;
use crate::output::Output;
use crate::stop::{SLICE, Stop};
use crate::target::Target;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use syncq::Message;
use syncq::host::LineHostBuffer;
use syncq::line::LineError;

/// Serve a queue over HTTP: browsers and readers see its messages as lines, lines of mirrors become messages
///
/// Reads along as an observer. Prints the address, and serves until it is stopped.
#[derive(Debug, clap::Args)]
pub(crate) struct Serve {
    #[command(flatten)]
    target: Target,
    /// Where to listen; port 0 for one from the kernel
    #[arg(short, long, value_name = "ADDRESS", default_value = "127.0.0.1:5000")]
    listen: String,
    /// Allow an address that other machines reach
    #[arg(long)]
    beyond_loopback: bool,
    /// Under which path; it begins with /
    #[arg(long, default_value = "/sync-stream")]
    route: String,
    /// Ask everybody for "Authorization: Bearer TOKEN"
    #[arg(long)]
    token: Option<String>,
    /// How many lines are kept
    #[arg(long, value_name = "N", default_value_t = 1000)]
    keep: usize,
    /// With which message to begin
    #[arg(long, value_enum, default_value = "oldest")]
    from: From,
    /// The name under which lines of mirrors are appended
    #[arg(short, long, default_value = "serve")]
    sender: String,
    #[command(flatten)]
    limits: Limits,
}

impl std::convert::From<LineError> for Fail {
    fn from(error: LineError) -> Self {
        Fail::new(error)
    }
}

impl Serve {
    pub(crate) fn run(self, out: &mut Output, stop: &Stop) -> Outcome {
        let queue = self.target.open()?;
        let mut observer = self.target.observe(self.from.start())?;
        // What came from here would come back.
        observer.screen().add_sender(&self.sender);
        let mut options = LineHostBuffer::options().route(self.route.as_str()).maxlen(self.keep);
        if let Some(token) = &self.token {
            options = options.token(token.as_str());
        }
        if self.beyond_loopback {
            options = options.beyond_loopback();
        }
        let host = options.build()?;
        let service = host.serve(self.listen.as_str()).map_err(|error| {
            Fail::from(error)
                .during(&self.listen)
                .with_hint("--listen 127.0.0.1:0 takes a free port")
        })?;
        out.line(service.url())?;
        out.flush()?;
        let mut to = Appender::join(&queue, &self.sender, None, stop)?;
        let is_over = AtomicBool::new(false);
        let (read, written) = std::thread::scope(|scope| {
            let writing = scope.spawn(|| append_lines(&host, &mut to, stop, &is_over));
            let read = follow::follow(&mut observer, &mut ToHost(&host), stop, &self.limits, false);
            is_over.store(true, Ordering::Relaxed);
            (read, writing.join())
        });
        service.stop(Duration::from_secs(1));
        written.map_err(|_| Fail::new("the thread that appends lines ended"))??;
        match read?.code(&self.limits) {
            DONE => Ok(DONE),
            code => Ok(code),
        }
    }
}

/// Lines of mirrors into the queue, until it is over.
fn append_lines(host: &LineHostBuffer, to: &mut Appender<'_>, stop: &Stop, is_over: &AtomicBool) -> Result<(), Fail> {
    let mut items = host.follow(SLICE);
    while !is_over.load(Ordering::Relaxed) && !stop.is_asked() {
        match items.next() {
            Some(item) => {
                let item = item?;
                // What this process wrote came from the queue.
                if item.origin.is_some() {
                    let line = item.line().map(|line| line.bytes().to_vec());
                    to.append("line", &line.unwrap_or_else(|| item.text().into_owned().into_bytes()))?;
                }
            }
            None => continue,
        }
    }
    Ok(())
}

/// Messages into the service.
struct ToHost<'h>(&'h LineHostBuffer);

impl Sink for ToHost<'_> {
    fn take(&mut self, message: &Message<'_>) -> Result<bool, Fail> {
        let mut line = message.body().to_vec();
        line.push(b'\n');
        self.0.write(&line)?;
        Ok(true)
    }

    fn pause(&mut self) -> Result<(), Fail> {
        Ok(())
    }

    fn lagged(&mut self, missed: u64) -> Result<(), Fail> {
        self.0.write(format!("[{missed} messages missed]\n"))?;
        Ok(())
    }
}
