//! `syncq tail`: reads along without taking part.

use crate::fail::{Fail, Outcome};
use crate::follow::{self, From, Limits, Sink};
use crate::format::{Format, Printer, Shown};
use crate::output::Output;
use crate::show::Look;
use crate::stop::Stop;
use crate::target::Target;
use syncq::Message;

/// Follow a queue as an observer: never holds writers back, and says when it lagged
#[derive(Debug, clap::Args)]
pub(crate) struct Tail {
    #[command(flatten)]
    target: Target,
    /// With which message to begin
    #[arg(long, value_enum, default_value = "now")]
    from: From,
    /// Print what is there and end, instead of waiting for more
    #[arg(short, long)]
    drain: bool,
    #[command(flatten)]
    shown: Shown,
    #[command(flatten)]
    limits: Limits,
}

impl Tail {
    pub(crate) fn run(self, out: &mut Output, stop: &Stop) -> Outcome {
        let printer = self
            .shown
            .printer(Format::Text, out.is_coloured())
            .map_err(Fail::usage)?;
        let from = if self.drain { From::Oldest } else { self.from };
        let mut observer = self.target.observe(from.start())?;
        self.shown.set_screen(observer.screen());
        let mut sink = Print::new(&self.shown, printer, out);
        let end = follow::follow(&mut observer, &mut sink, stop, &self.limits, self.drain)?;
        Ok(end.code(&self.limits))
    }
}

/// Prints what it gets.
pub(crate) struct Print<'p> {
    shown: &'p Shown,
    printer: Printer,
    out: &'p mut Output,
}

impl<'p> Print<'p> {
    pub(crate) fn new(shown: &'p Shown, printer: Printer, out: &'p mut Output) -> Self {
        Print { shown, printer, out }
    }
}

impl Sink for Print<'_> {
    #[inline]
    fn take(&mut self, message: &Message<'_>) -> Result<bool, Fail> {
        if !self.shown.wants(message) {
            return Ok(false);
        }
        self.printer.print(message, self.out.buffer());
        self.out.settle()?;
        Ok(true)
    }

    fn pause(&mut self) -> Result<(), Fail> {
        Ok(self.out.flush()?)
    }

    fn lagged(&mut self, missed: u64) -> Result<(), Fail> {
        // After what came before it, so that it stands at its place on a terminal.
        self.out.flush()?;
        let note = format!("syncq: lagged behind, missed {missed} messages");
        eprintln!("{}", Look::Yellow.on(self.out.is_coloured(), &note));
        Ok(())
    }
}
