//! The files of a `LineFileBuffer`: appended to under a lock, read from the end of what is whole, turned over when there is twice enough.
//!
//! A file is the 8 bytes `SQLINES1`, the number of its first item (u64), and then items: length of the rest (u32), sum of the rest (u32), time in
//! nanoseconds since 1970 (u64), process (u32), stream (u8), kind (u8), name (length u32, bytes), content. All little-endian. An item
//! that is cut short or whose sum is wrong was being written by somebody who was killed: it is not given, and the next writer removes it.

use super::error::{LineError, Result};
use super::frame::{self, Bytes};
use super::item::{Content, Line, LineItem, Origin};
use crate::wait::{Deadline, Wait};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Bytes of text that are appended at once, at most.
pub(super) const PIECE: usize = 1 << 20;

const MAGIC: &[u8; 8] = b"SQLINES1";
const HEAD: u64 = 16;
/// Length and sum before each item.
const AROUND: usize = 8;

/// A file that holds more than this is turned over, however few items that is.
const MAX_FILE: u64 = 64 << 20;

#[derive(Debug)]
pub(super) struct Log {
    current: PathBuf,
    old: PathBuf,
    lock: PathBuf,
    maxlen: usize,
    /// How long to wait for the lock.
    wait: Wait,
    /// What is known of the current file, so that appending need not read it.
    known: Option<Known>,
}

#[derive(Debug)]
struct Known {
    file: File,
    inode: u64,
    first: u64,
    items: u64,
    /// Where the last whole item ends.
    end: u64,
}

/// The log, while this process has the lock.
pub(super) struct Locked<'l> {
    log: &'l mut Log,
}

impl Log {
    pub(super) fn new(path: &Path, maxlen: usize, wait: Wait) -> Self {
        let with = |ending: &str| {
            let mut name = path.as_os_str().to_owned();
            name.push(ending);
            PathBuf::from(name)
        };
        Log {
            current: with(".lines"),
            old: with(".lines.old"),
            lock: with(".lock"),
            maxlen,
            wait,
            known: None,
        }
    }

    /// Runs `body` with the lock, which the kernel frees if this process is killed.
    pub(super) fn locked<T>(&mut self, body: impl FnOnce(&mut Locked<'_>) -> Result<T>) -> Result<T> {
        let doing = || format!("locking {}", self.lock.display());
        let mut file = options().open(&self.lock).map_err(LineError::io(doing()))?;
        let deadline = Deadline::of(self.wait);
        let _lock = loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => break lock,
                // Held for the time of an append. Who is stopped while holding it delays others until their timers end.
                Err((again, Errno::EWOULDBLOCK)) if !deadline.has_passed() => file = again,
                Err((_, Errno::EWOULDBLOCK)) => {
                    let why = io::Error::new(ErrorKind::TimedOut, "another process had it all the time");
                    return Err(LineError::io(doing())(why));
                }
                Err((again, Errno::EINTR)) => file = again,
                Err((_, error)) => return Err(LineError::io(doing())(error.into())),
            }
            std::thread::sleep(deadline.cap(Duration::from_micros(200)));
        };
        let mut locked = Locked { log: self };
        locked.look()?;
        body(&mut locked)
    }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options
}

impl Locked<'_> {
    /// Sees what others have done since the last time.
    fn look(&mut self) -> Result<()> {
        let path = self.log.current.clone();
        let doing = || format!("reading {}", path.display());
        let is_same = match (&self.log.known, std::fs::metadata(&path)) {
            (Some(known), Ok(found)) => found.ino() == known.inode && found.len() >= known.end,
            _ => false,
        };
        if !is_same {
            let mut file = options().open(&path).map_err(LineError::io(doing()))?;
            let found = file.metadata().map_err(LineError::io(doing()))?;
            let first = match found.len() {
                // New, or its maker was killed before it was begun.
                0..HEAD => {
                    let first = self.after_old()?;
                    self.begin(&mut file, first)?
                }
                _ => read_head(&mut file, &path)?,
            };
            self.log.known = Some(Known {
                file,
                inode: found.ino(),
                first,
                items: 0,
                end: HEAD,
            });
        }
        // What was appended since.
        let known = self.log.known.as_mut().expect("opened just now");
        let len = known.file.metadata().map_err(LineError::io(doing()))?.len();
        if len > known.end {
            let bytes = read_from(&known.file, known.end, len - known.end).map_err(LineError::io(doing()))?;
            let (count, whole) = whole_items(&bytes);
            known.items += count;
            known.end += whole as u64;
        }
        Ok(())
    }

    /// The number after the last item of the old file.
    fn after_old(&self) -> Result<u64> {
        Ok(self
            .old_items()?
            .map_or(0, |(first, bytes)| first + whole_items(&bytes).0))
    }

    /// The number of the first item of the old file, and its bytes.
    fn old_items(&self) -> Result<Option<(u64, Vec<u8>)>> {
        let doing = || format!("reading {}", self.log.old.display());
        let mut file = match File::open(&self.log.old) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(LineError::io(doing())(error)),
        };
        let first = read_head(&mut file, &self.log.old)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(LineError::io(doing()))?;
        Ok(Some((first, bytes)))
    }

    fn known(&mut self) -> &mut Known {
        self.log.known.as_mut().expect("looked at when it was locked")
    }

    /// Writes the head of a file whose first item will have number `first`.
    fn begin(&self, file: &mut File, first: u64) -> Result<u64> {
        let doing = || format!("beginning {}", self.log.current.display());
        let head = [&MAGIC[..], &first.to_le_bytes()].concat();
        file.set_len(0).map_err(LineError::io(doing()))?;
        file.write_all_at(&head, 0).map_err(LineError::io(doing()))?;
        Ok(first)
    }

    pub(super) fn next_seq(&mut self) -> Result<u64> {
        let known = self.known();
        Ok(known.first + known.items)
    }

    pub(super) fn append(&mut self, items: &[LineItem]) -> Result<()> {
        let doing = format!("appending to {}", self.log.current.display());
        let limit = (self.log.maxlen as u64).saturating_mul(2).max(64);
        let mut bytes = Vec::new();
        items.iter().for_each(|item| put_item(&mut bytes, item));
        let known = self.known();
        if known.items >= limit || known.items > 0 && known.end + bytes.len() as u64 > MAX_FILE {
            self.turn_over()?;
        }
        let known = self.known();
        // Over what somebody left who was killed while appending.
        let written = known
            .file
            .set_len(known.end)
            .and_then(|()| known.file.write_all_at(&bytes, known.end));
        if let Err(error) = written {
            // A part may be there; it is not whole, so nobody takes it for items.
            let _ = known.file.set_len(known.end);
            return Err(LineError::io(doing)(error));
        }
        known.items += items.len() as u64;
        known.end += bytes.len() as u64;
        Ok(())
    }

    /// The current file becomes the old one. Who is killed in between leaves no current file, and then the numbers go on from the old one.
    fn turn_over(&mut self) -> Result<()> {
        let doing = format!("turning over {}", self.log.current.display());
        let next = self.next_seq()?;
        // The new file is complete before it gets its name.
        let fresh = fresh_name(&self.log.current);
        let mut file = options().open(&fresh).map_err(LineError::io(doing.clone()))?;
        self.begin(&mut file, next)?;
        std::fs::rename(&self.log.current, &self.log.old).map_err(LineError::io(doing.clone()))?;
        std::fs::rename(&fresh, &self.log.current).map_err(LineError::io(doing.clone()))?;
        let inode = file.metadata().map_err(LineError::io(doing))?.ino();
        self.log.known = Some(Known {
            file,
            inode,
            first: next,
            items: 0,
            end: HEAD,
        });
        Ok(())
    }

    /// The last `n` items of both files.
    pub(super) fn read_last(&mut self, n: usize) -> Result<Vec<LineItem>> {
        let path = self.log.current.clone();
        let known = self.known();
        let bytes = read_from(&known.file, HEAD, known.end - HEAD)
            .map_err(LineError::io(format!("reading {}", path.display())))?;
        let (first, items) = (known.first, known.items);
        let n64 = n as u64;
        let mut read = Vec::new();
        if n64 > items {
            read = self.read_old(first, n64 - items)?;
        }
        let skip = items.saturating_sub(n64);
        let mut rest = Bytes(&bytes);
        for seq in first..first + items {
            let Some(body) = next_item(&mut rest) else { break };
            if seq >= first + skip {
                read.extend(item_of(body, seq));
            }
        }
        Ok(read)
    }

    /// The last `n` items before number `before`.
    fn read_old(&self, before: u64, n: u64) -> Result<Vec<LineItem>> {
        let Some((first, bytes)) = self.old_items()? else {
            return Ok(Vec::new());
        };
        let (count, _) = whole_items(&bytes);
        if first + count != before {
            // Of a time before a `clear`, or of a file that somebody removed.
            return Ok(Vec::new());
        }
        let mut rest = Bytes(&bytes);
        let bodies = std::iter::from_fn(|| next_item(&mut rest)).zip(first..);
        Ok(bodies
            .skip(count.saturating_sub(n) as usize)
            .filter_map(|(body, seq)| item_of(body, seq))
            .collect())
    }

    pub(super) fn clear(&mut self) -> Result<()> {
        self.turn_over()?;
        match std::fs::remove_file(&self.log.old) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(LineError::io(format!("removing {}", self.log.old.display()))(error))
            }
            _ => Ok(()),
        }
    }
}

/// A name that is used under the lock alone; what somebody left there who was killed is begun anew.
fn fresh_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    PathBuf::from(name)
}

fn read_head(file: &mut File, path: &Path) -> Result<u64> {
    let not = |why| LineError::NotALineFile {
        path: path.to_owned(),
        why,
    };
    let mut head = [0; HEAD as usize];
    let doing = || format!("reading {}", path.display());
    file.seek(SeekFrom::Start(0)).map_err(LineError::io(doing()))?;
    file.read_exact(&mut head).map_err(|_| not("it is too short"))?;
    match &head[..8] == MAGIC {
        true => Ok(u64::from_le_bytes(head[8..].try_into().expect("8 bytes"))),
        false => Err(not("it does not begin with SQLINES1")),
    }
}

fn read_from(file: &File, from: u64, len: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(len).map_err(|_| ErrorKind::FileTooLarge)?];
    file.read_exact_at(&mut bytes, from)?;
    Ok(bytes)
}

/// How many whole items there are from the beginning on, and how many bytes those are.
fn whole_items(bytes: &[u8]) -> (u64, usize) {
    let mut rest = Bytes(bytes);
    let mut count = 0;
    let mut whole = 0;
    while next_item(&mut rest).is_some() {
        count += 1;
        whole = bytes.len() - rest.0.len();
    }
    (count, whole)
}

/// The next item's bytes, if it is whole.
fn next_item<'b>(rest: &mut Bytes<'b>) -> Option<Bytes<'b>> {
    let mut ahead = *rest;
    let (len, said) = (ahead.u32()?, ahead.u32()?);
    let body = ahead.0.get(..usize::try_from(len).ok()?)?;
    if sum(body) != said {
        return None;
    }
    *rest = Bytes(&ahead.0[body.len()..]);
    Some(Bytes(body))
}

/// FNV-1a. It is to notice what was not written to the end, not to resist anybody.
fn sum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |sum, &byte| {
        (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

fn put_item(bytes: &mut Vec<u8>, item: &LineItem) {
    let start = bytes.len();
    bytes.extend_from_slice(&[0; AROUND]);
    let nanos = item
        .time
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |time| time.as_nanos() as u64);
    let origin = item.origin.as_deref().cloned().unwrap_or_default();
    bytes.extend_from_slice(&nanos.to_le_bytes());
    bytes.extend_from_slice(&origin.pid.to_le_bytes());
    frame::put_stream(bytes, item.stream);
    match &item.content {
        Content::Line(line) => {
            bytes.push(0);
            frame::put_blob(bytes, origin.name.as_bytes());
            frame::put_line(bytes, line.bytes(), &[], line.cut());
            bytes.push(line.is_unfinished().into());
        }
        Content::Grouped(message) => {
            bytes.push(1);
            frame::put_blob(bytes, origin.name.as_bytes());
            frame::put_group(bytes, message);
        }
        Content::Record(record) => {
            bytes.push(2);
            frame::put_blob(bytes, origin.name.as_bytes());
            frame::put_record(bytes, record);
        }
        // Notes of other buffers; one of files makes none.
        Content::Lost(_) | Content::Dropped(_) => {
            bytes.push(1);
            frame::put_blob(bytes, origin.name.as_bytes());
            frame::put_group(bytes, &item.grouped().expect("a note is grouped"));
        }
    }
    let body = &bytes[start + AROUND..];
    let (len, sum) = (body.len() as u32, sum(body));
    bytes[start..start + 4].copy_from_slice(&len.to_le_bytes());
    bytes[start + 4..start + AROUND].copy_from_slice(&sum.to_le_bytes());
}

/// `None`: whole, but not one of ours.
fn item_of(mut body: Bytes<'_>, seq: u64) -> Option<LineItem> {
    let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_nanos(body.u64()?))?;
    let pid = body.u32()?;
    let stream = body.stream()?;
    let kind = body.u8()?;
    let name = body.string()?;
    let content = match kind {
        0 => {
            let (line, cut) = body.line()?;
            Content::Line(Line::cut_by(line.to_vec(), cut, body.u8()? != 0))
        }
        1 => Content::Grouped(body.group()?),
        2 => Content::Record(Box::new(body.record()?)),
        _ => return None,
    };
    let mirror = u64::from(pid);
    Some(LineItem {
        seq,
        time,
        origin: Some(Arc::new(Origin { name, pid, mirror })),
        stream,
        content,
    })
}
