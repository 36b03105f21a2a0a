//! `syncq top`: the terminal around the frames. What is in them is made in `frame`.

use crate::fail::{DONE, Fail, Outcome};
use crate::frame::{self, History, Order, View};
use crate::measure;
use crate::output::Output;
use crate::stop::{Stop, Woken};
use crate::target::Trust;
use crate::watch::{Seen, Watch};
use crossterm::terminal;
use std::io::{self, IsTerminal, Read};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// Take over the screen: another one, without a cursor; and give it back.
const ENTER: &[u8] = b"\x1b[?1049h\x1b[?25l\x1b[2J";
const LEAVE: &[u8] = b"\x1b[?25h\x1b[?1049l";
/// Where the width is not known.
const WIDTH: u16 = 120;
const HEIGHT: u16 = 40;

/// Watch queues and members live: rate and lag over time
///
/// Keys: q quits, up and down (or j and k) choose a queue, s changes the order, space pauses. Queues are mapped read-only: members notice nothing.
#[derive(Debug, clap::Args)]
pub(crate) struct Top {
    /// Only these queues
    #[arg(value_name = "QUEUE")]
    queues: Vec<String>,
    /// Time between two looks
    #[arg(short, long, value_name = "TIME", value_parser = measure::duration, default_value = "1s")]
    interval: Duration,
    /// Stop after so many frames
    #[arg(short = 'n', long, value_name = "N")]
    count: Option<u64>,
    /// Stop after this long
    #[arg(long, value_name = "TIME", value_parser = measure::duration)]
    timeout: Option<Duration>,
    /// Print one frame and end; needs no terminal
    #[arg(long)]
    once: bool,
    /// Order of the queues
    #[arg(short, long, value_enum, default_value = "name")]
    sort: Order,
    #[command(flatten)]
    trust: Trust,
}

/// The terminal in another state, until this goes.
struct Screen;

impl Screen {
    fn enter(out: &mut Output) -> io::Result<Self> {
        terminal::enable_raw_mode()?;
        out.buffer().extend_from_slice(ENTER);
        out.flush()?;
        Ok(Screen)
    }

    fn leave(self, out: &mut Output) -> io::Result<()> {
        out.buffer().extend_from_slice(LEAVE);
        out.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Nobody is left to tell.
        let _ = terminal::disable_raw_mode();
    }
}

/// What a key asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Quit,
    Up,
    Down,
    Sort,
    Pause,
}

impl Top {
    pub(crate) fn run(self, out: &mut Output, stop: &Stop) -> Outcome {
        if self.interval.is_zero() {
            return Err(Fail::usage("an --interval of nothing would never rest"));
        }
        let mut watch = Watch::new(&self.queues, self.trust);
        if self.once {
            watch.look()?;
            stop.sleep(self.interval);
            let mut history = History::default();
            let mut seen = watch.look()?;
            history.add(&seen);
            frame::sort(&mut seen, self.sort);
            // As wide as it is: whoever reads this is no terminal, or scrolls.
            let mut view = self.view(usize::MAX / 2);
            view.width = if io::stdout().is_terminal() {
                size().0.into()
            } else {
                200
            };
            draw(&seen, &history, &view, out, b"\n");
            out.flush()?;
            return Ok(DONE);
        }
        if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
            return Err(Fail::usage("top needs a terminal").with_hint("`syncq top --once` or `syncq stat` need none"));
        }
        let screen = Screen::enter(out)?;
        let result = self.live(&mut watch, out, stop);
        // Also after an error, so that it can be read.
        screen.leave(out)?;
        result
    }

    fn view(&self, height: usize) -> View {
        View {
            width: WIDTH.into(),
            height,
            order: self.sort,
            chosen: 0,
            is_paused: false,
        }
    }

    fn live(&self, watch: &mut Watch, out: &mut Output, stop: &Stop) -> Outcome {
        let mut history = History::default();
        let mut view = self.view(HEIGHT.into());
        let end = self.timeout.map(|timeout| Instant::now() + timeout);
        let mut seen = watch.look()?;
        let mut next = Instant::now() + self.interval;
        let mut frames = 0;
        loop {
            let (width, height) = size();
            (view.width, view.height) = (width.into(), height.into());
            out.buffer().extend_from_slice(b"\x1b[H");
            draw(&seen, &history, &view, out, b"\x1b[K\r\n");
            // The line break after the last line would scroll.
            let shorter = out.buffer().len() - 2;
            out.buffer().truncate(shorter);
            out.buffer().extend_from_slice(b"\x1b[J");
            out.flush()?;
            frames += 1;
            let is_over = end.is_some_and(|end| end <= Instant::now());
            if is_over || self.count.is_some_and(|count| frames >= count) {
                return Ok(DONE);
            }
            let wake = end.map_or(next, |end| end.min(next));
            match stop.wait_readable(io::stdin().as_fd(), Some(wake))? {
                Woken::Stopped => return Ok(DONE),
                Woken::Ready => {
                    let keys = keys()?;
                    if keys.contains(&Key::Quit) {
                        return Ok(DONE);
                    }
                    keys.into_iter().for_each(|key| obey(key, &mut view, seen.len()));
                }
                Woken::TimedOut if view.is_paused => next = Instant::now() + self.interval,
                Woken::TimedOut => {
                    seen = watch.look()?;
                    history.add(&seen);
                    next = (next + self.interval).max(Instant::now());
                }
            }
            frame::sort(&mut seen, view.order);
        }
    }
}

fn draw(seen: &[Seen], history: &History, view: &View, out: &mut Output, line_end: &[u8]) {
    let is_coloured = out.is_coloured();
    for line in frame::frame(seen, history, view) {
        for (text, look) in &line {
            out.buffer().extend_from_slice(look.on(is_coloured, text).as_bytes());
        }
        out.buffer().extend_from_slice(line_end);
    }
}

fn size() -> (u16, u16) {
    match terminal::size() {
        Ok((width, height)) if width > 0 && height > 0 => (width, height),
        _ => (WIDTH, HEIGHT),
    }
}

/// What was typed. The end of the input is as good as a quit.
fn keys() -> io::Result<Vec<Key>> {
    let mut bytes = [0; 64];
    let read = io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .map(std::fs::File::from)?
        .read(&mut bytes)?;
    if read == 0 {
        return Ok(vec![Key::Quit]);
    }
    Ok(parse(&bytes[..read]))
}

fn parse(mut bytes: &[u8]) -> Vec<Key> {
    let mut keys = Vec::new();
    while let Some(first) = bytes.first() {
        let (key, len) = match bytes {
            [b'\x1b', b'[' | b'O', b'A', ..] => (Some(Key::Up), 3),
            [b'\x1b', b'[' | b'O', b'B', ..] => (Some(Key::Down), 3),
            [b'\x1b', b'[' | b'O', ..] => (None, bytes.len()),
            _ => match first {
                // Ctrl-C and Ctrl-D are plain bytes now.
                b'q' | b'Q' | 3 | 4 | b'\x1b' => (Some(Key::Quit), 1),
                b'k' => (Some(Key::Up), 1),
                b'j' => (Some(Key::Down), 1),
                b's' => (Some(Key::Sort), 1),
                b' ' => (Some(Key::Pause), 1),
                _ => (None, 1),
            },
        };
        keys.extend(key);
        bytes = &bytes[len..];
    }
    keys
}

fn obey(key: Key, view: &mut View, queues: usize) {
    match key {
        Key::Quit => {}
        Key::Up => view.chosen = view.chosen.saturating_sub(1),
        Key::Down => view.chosen = (view.chosen + 1).min(queues.saturating_sub(1)),
        Key::Sort => view.order = view.order.next(),
        Key::Pause => view.is_paused = !view.is_paused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_told_apart() {
        assert_eq!(
            parse(b"j\x1b[A\x1bOBs q"),
            [Key::Down, Key::Up, Key::Down, Key::Sort, Key::Pause, Key::Quit]
        );
        assert_eq!(parse(b"\x1b[15~x"), []);
        assert_eq!(parse(b"\x03"), [Key::Quit]);
    }
}
