//! The way of large pieces through a pipe in between: from a source into one sink or several, without a copy in this process; or
//! with one, where somebody looks.
//!
//! A piece goes by `splice` from the source into a pipe of the relay's own. For each further sink, and for who looks, `tee` doubles it into one more pipe: the
//! pages are shared, not copied. What is to be looked at is read from there. Then `splice` takes the piece from each pipe into its sink, as fast
//! as that goes. The next one comes when all sinks have this one: so a relay never holds more than one piece.
//!
//! Not here: small pieces, which are cheaper to copy. The caller reads and writes those.

use super::direct::{Moved, is_readable, read_limit};
use super::{ChannelStream, Item, WriteStream};
use crate::channel::ChannelError;
use rustix::io::{Errno, retry_on_intr};
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, splice, tee};
use std::cell::{Cell, OnceCell};
use std::os::fd::OwnedFd;
use std::rc::Rc;

/// What goes in one piece where nobody looks. Where somebody does, it is what the source reads at once.
const PIECE: usize = 256 << 10;
/// Bytes that one source relays in one go, before the others have their turn.
const BUDGET: usize = 1 << 20;
/// From here on, moving pages is cheaper than copying bytes.
const LARGE: usize = 32 << 10;

const FLAGS: SpliceFlags = SpliceFlags::NONBLOCK.union(SpliceFlags::MOVE);

/// Who is shown each piece before it goes on.
pub(super) type Look = Box<dyn Fn(&Item)>;

/// From one source into each of its legs.
pub(super) struct Relay {
    legs: Vec<Leg>,
    look: Option<Look>,
    /// The source is a blocking socket: the kernel is asked first whether it has something.
    looks_first: bool,
    /// What came last was large, so what comes next may be.
    is_large: Cell<bool>,
    /// It was taken apart: what was under way is with the sinks.
    is_over: Cell<bool>,
    /// Whether there is a pipe for each that needs one.
    is_made: OnceCell<bool>,
    /// What is shown is read from here, into this.
    side: OnceCell<Tube>,
    shown: Cell<Vec<u8>>,
    /// Of the piece under way: its length, and what of it was counted.
    len: Cell<usize>,
    counted: Cell<usize>,
}

/// One sink, and the pipe in front of it.
struct Leg {
    sink: Rc<ChannelStream>,
    tube: OnceCell<Tube>,
    /// Bytes in the pipe.
    left: Cell<usize>,
    has_failed: Cell<bool>,
}

/// Both ends of a pipe in one hand.
struct Tube {
    end: OwnedFd,
    start: OwnedFd,
}

impl Tube {
    fn new() -> Result<Self, Errno> {
        let (end, start) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok(Tube { end, start })
    }

    /// Appends the `len` bytes that are in it.
    fn read(&self, len: usize, into: &mut Vec<u8>) -> Result<(), Errno> {
        let all = into.len() + len;
        into.reserve(len);
        while into.len() < all {
            if retry_on_intr(|| rustix::io::read(&self.end, rustix::buffer::spare_capacity(into)))? == 0 {
                return Err(Errno::PIPE);
            }
        }
        Ok(())
    }
}

impl Relay {
    pub(super) fn new(sinks: Vec<Rc<ChannelStream>>, look: Option<Look>, looks_first: bool) -> Self {
        let leg = |sink| Leg {
            sink,
            tube: OnceCell::new(),
            left: Cell::new(0),
            has_failed: Cell::new(false),
        };
        Relay {
            legs: sinks.into_iter().map(leg).collect(),
            look,
            looks_first,
            is_large: Cell::new(false),
            is_over: Cell::new(false),
            is_made: OnceCell::new(),
            side: OnceCell::new(),
            shown: Cell::default(),
            len: Cell::new(0),
            counted: Cell::new(0),
        }
    }

    /// So much was read and written just now.
    pub(super) fn saw(&self, len: usize) {
        self.is_large.set(len >= LARGE);
    }

    fn alive(&self) -> impl Iterator<Item = &Leg> {
        self.legs.iter().filter(|leg| !leg.has_failed.get())
    }

    /// All pipes, of one size: what is in the first fits into the others.
    fn make(&self) -> bool {
        let is_made = || -> Result<bool, Errno> {
            let tubes = self.legs.iter().map(|leg| &leg.tube);
            let tubes = || tubes.clone().chain(self.look.as_ref().map(|_| &self.side));
            for tube in tubes() {
                let _ = tube.set(Tube::new()?);
            }
            let made = || tubes().filter_map(OnceCell::get);
            // A favour of the system's: who may not have it has smaller pieces.
            if self.look.is_none() {
                for tube in made() {
                    let _ = fcntl_setpipe_size(&tube.end, PIECE);
                }
            }
            let sizes = || -> Result<Vec<usize>, _> { made().map(|tube| fcntl_getpipe_size(&tube.end)).collect() };
            let least = sizes()?.into_iter().min().unwrap_or(0);
            made().try_for_each(|tube| fcntl_setpipe_size(&tube.end, least).map(drop))?;
            Ok(sizes()?.iter().all(|size| *size == least))
        };
        *self.is_made.get_or_init(|| is_made() == Ok(true))
    }

    /// Moves what can be moved now, and counts it.
    pub(super) fn go(&self, source: &ChannelStream, count: &dyn Fn(u64, u64)) -> Moved {
        let (mut taken, mut is_some) = (0, false);
        loop {
            if self.alive().any(|leg| leg.left.get() > 0) {
                let before = self.counted.get();
                let Ok(is_through) = self.pass_on(source, count) else {
                    return Moved::Refused;
                };
                is_some |= self.counted.get() > before;
                if !is_through {
                    return Moved::Waiting { is_some };
                }
            }
            let some_or = |nothing| match is_some {
                true => Moved::Some { has_more: true },
                false => nothing,
            };
            // Whoever looked may have paused or stopped it.
            if self.is_over.get() || !source.is_flowing() || self.alive().next().is_none() || taken >= BUDGET {
                return some_or(Moved::Nothing);
            }
            // What was written the long way goes first.
            if let Some(leg) = self.alive().find(|leg| leg.sink.queued() > 0) {
                leg.sink.wait_for_room(source.weak());
                return Moved::Waiting { is_some };
            }
            if !self.is_large.get() || source.borrow().has_buffered() {
                return some_or(Moved::ReadIt);
            }
            if !self.make() {
                return Moved::Refused;
            }
            match self.fill(source) {
                Ok(0) => {
                    self.is_large.set(false);
                    return some_or(Moved::ReadIt);
                }
                Ok(len) => {
                    self.is_large.set(len >= LARGE / 2);
                    (taken, is_some) = (taken + len, true);
                    if let Err(errno) = self.double(len) {
                        return Moved::Failed(ChannelError::os("doubling what is in a pipe", errno));
                    }
                }
                Err(Errno::AGAIN) if is_some => return Moved::Some { has_more: false },
                Err(Errno::AGAIN) => return Moved::Nothing,
                Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => return Moved::Refused,
                Err(errno) => return Moved::Failed(ChannelError::os("read", errno)),
            }
        }
    }

    /// One piece into the pipe of the first leg.
    fn fill(&self, source: &ChannelStream) -> Result<usize, Errno> {
        let source = source.borrow();
        let (Some(from), Some(to)) = (source.read_fd(), self.alive().find_map(|leg| leg.tube.get())) else {
            return Ok(0);
        };
        if self.looks_first && !is_readable(from) {
            return Err(Errno::AGAIN);
        }
        let piece = match &self.look {
            Some(_) => read_limit(&**source).unwrap_or(PIECE),
            None => PIECE,
        };
        retry_on_intr(|| splice(from, None, &to.start, None, piece, FLAGS))
    }

    /// The piece that is in the first leg's pipe into the others' as well, and in front of who looks.
    fn double(&self, len: usize) -> Result<(), Errno> {
        self.len.set(len);
        self.counted.set(0);
        let mut legs = self.alive();
        let Some((first, tube)) = legs.next().and_then(|leg| Some((leg, leg.tube.get()?))) else {
            return Err(Errno::BADF);
        };
        first.left.set(len);
        // All of it, for the pipes are empty, and alike.
        let double = |other: &Tube| match retry_on_intr(|| tee(&tube.end, &other.start, len, FLAGS))? {
            doubled if doubled == len => Ok(len),
            _ => Err(Errno::AGAIN),
        };
        for (leg, other) in legs.filter_map(|leg| Some((leg, leg.tube.get()?))) {
            leg.left.set(double(other)?);
        }
        if let (Some(look), Some(side)) = (&self.look, self.side.get()) {
            let mut bytes = self.shown.take();
            bytes.clear();
            side.read(double(side)?, &mut bytes)?;
            let item = Item::divisible(bytes);
            look(&item);
            self.shown.set(item.into_bytes());
        }
        Ok(())
    }

    /// From the pipes into the sinks. `false`: one of them takes nothing now, and tells when it does.
    fn pass_on(&self, source: &ChannelStream, count: &dyn Fn(u64, u64)) -> Result<bool, Errno> {
        let mut is_through = true;
        for leg in self.alive() {
            match leg.pass_on() {
                Ok(true) => {}
                Ok(false) => {
                    leg.sink.wait_for_room(source.weak());
                    is_through = false;
                }
                Err(errno @ (Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS)) => return Err(errno),
                Err(errno) => {
                    leg.has_failed.set(true);
                    leg.left.set(0);
                    leg.sink.fail_writing(ChannelError::os("write", errno).into());
                }
            }
        }
        // What every sink has that is still there; of what failed in all of them, nothing.
        if let Some(most) = self.alive().map(|leg| leg.left.get()).max() {
            let all = self.len.get() - most;
            let news = all - self.counted.replace(all).min(all);
            if news > 0 {
                count(u64::from(most == 0), news as u64);
            }
        }
        Ok(is_through)
    }

    /// Gives what is under way to the sinks, to be queued there.
    pub(super) fn settle(&self, is_over: bool, count: &dyn Fn(u64, u64)) {
        self.is_over.set(self.is_over.get() || is_over);
        let mut is_any = false;
        for leg in self.alive() {
            let left = leg.left.take();
            let mut bytes = vec![];
            if left > 0
                && let Some(tube) = leg.tube.get()
                && tube.read(left, &mut bytes).is_ok()
            {
                // A sink that has failed has told so itself.
                is_any |= leg.sink.write(Item::divisible(bytes)).is_ok();
            }
        }
        let len = self.len.get();
        if is_any {
            count(1, (len - self.counted.replace(len)) as u64);
        }
    }
}

impl Leg {
    /// `true`: nothing is left in the pipe.
    fn pass_on(&self) -> Result<bool, Errno> {
        let sink = self.sink.borrow();
        let (Some(tube), Some(to)) = (self.tube.get(), sink.write_fd()) else {
            return Err(Errno::PIPE);
        };
        while self.left.get() > 0 {
            match splice(&tube.end, None, to, None, self.left.get(), FLAGS) {
                Ok(0) => return Err(Errno::INVAL),
                Ok(moved) => self.left.set(self.left.get() - moved),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(false),
                Err(errno) => return Err(errno),
            }
        }
        Ok(true)
    }
}
