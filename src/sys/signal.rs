//! What a signal would do to this process.
//!
//! Not here: changing that, which is the program's business.

/// Whether writing where nobody reads is an error and not the end of the process: `SIGPIPE` is not at its default. Rust programs start so.
pub(crate) fn is_broken_pipe_harmless() -> bool {
    let mut now = std::mem::MaybeUninit::<nix::libc::sigaction>::zeroed();
    // SAFETY: only asks; the kernel writes one whole `sigaction` into memory of that size.
    let asked = unsafe { nix::libc::sigaction(nix::libc::SIGPIPE, std::ptr::null(), now.as_mut_ptr()) };
    // SAFETY: zeroes are a `sigaction` too, and the kernel's answer is one.
    asked == 0 && unsafe { now.assume_init() }.sa_sigaction != nix::libc::SIG_DFL
}
