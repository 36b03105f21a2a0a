//! The C library's own buffer in front of standard output.
//!
//! Changing what descriptors 1 and 2 lead to needs nothing from here: rustix has safe functions for that.

/// Writes out what C code has printed and the C library still holds. (Its standard error has no buffer. The other streams are left alone: a
/// thread may be inside one, reading, and would be waited for.)
pub(crate) fn flush_c_stdout() {
    #[cfg(not(any(loom, miri)))]
    {
        unsafe extern "C" {
            static stdout: *mut nix::libc::FILE;
        }
        // SAFETY: the C library's own stream, set before main and good for the life of the process; fflush locks it.
        unsafe { nix::libc::fflush(stdout) };
    }
}
