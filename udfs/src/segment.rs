//! Memory that this process and one worker both map: a sealed memfd.
//!
//! The one file of this crate with unsafe code. Nobody is ever given a reference
//! to the memory, for the worker may write to it at any time: bytes are copied in
//! and out. Its length is sealed, so that no access can fall off its end, however
//! the worker treats its own descriptor.

#![expect(unsafe_code, reason = "memory is mapped and copied by address")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::OnceLock;

use rustix::fs::{
    FallocateFlags, MemfdFlags, SealFlags, fallocate, fcntl_add_seals, ftruncate, memfd_create,
};
use rustix::io::Errno;

/// A mapped memfd; unmapped and closed when dropped.
#[derive(Debug)]
pub(crate) struct Segment {
    start: NonNull<u8>,
    bytes: usize,
    file: OwnedFd,
}

// SAFETY: the mapping belongs to the process, not to a thread, and lives as long
// as the value; writing needs `&mut`.
unsafe impl Send for Segment {}
// SAFETY: as above; what `&self` allows is copying out.
unsafe impl Sync for Segment {}

impl Segment {
    /// A new one of `bytes` zeros, which take no memory until they are written.
    ///
    /// # Errors
    /// When the system has no such memory, or not for us.
    pub(crate) fn create(name: &str, bytes: usize) -> io::Result<Self> {
        if reserves_memory() {
            // A page that cannot be had kills whoever touches it.
            let text = "the system gives out no more memory than it has (vm.overcommit_memory = 2)";
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = match memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
            // Linux before 6.3 does not know that flag; some demand it.
            Err(Errno::INVAL) => memfd_create(name, flags),
            made => made,
        }?;
        ftruncate(&file, bytes as u64)?;
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        // SAFETY: a new mapping at an address that the kernel chooses changes
        // nobody's memory.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast())
            .ok_or_else(|| io::Error::other("the memory is mapped at address zero"))?;
        Ok(Self { start, bytes, file })
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// A descriptor to be sent to the worker. One that is not `writable` can be
    /// mapped for reading only.
    ///
    /// # Errors
    /// When there are too many, or no `/proc`.
    pub(crate) fn descriptor(&self, writable: bool) -> io::Result<OwnedFd> {
        match writable {
            true => self.file.try_clone(),
            false => {
                // Sealing against writing would also keep us from `give_back`.
                let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
                Ok(File::open(path)?.into())
            }
        }
    }

    /// Copies `from` to the place `at`; `false`, and nothing done, if it does not
    /// fit there.
    #[must_use]
    pub(crate) fn write(&mut self, at: usize, from: &[u8]) -> bool {
        let fits = at
            .checked_add(from.len())
            .is_some_and(|end| end <= self.bytes);
        if fits {
            // SAFETY: the range lies in the mapping, whose length is sealed; `from`
            // does not, for nobody has a reference into it.
            unsafe {
                std::ptr::copy_nonoverlapping(
                    from.as_ptr(),
                    self.start.as_ptr().add(at),
                    from.len(),
                );
            }
        }
        fits
    }

    /// Appends to `to` the `bytes` bytes at the place `at`; `false`, and nothing
    /// done, if there are none.
    #[must_use]
    pub(crate) fn read(&self, at: usize, bytes: usize, to: &mut Vec<u8>) -> bool {
        let fits = at.checked_add(bytes).is_some_and(|end| end <= self.bytes);
        if fits {
            to.reserve(bytes);
            // SAFETY: the source lies in the mapping, whose length is sealed; the
            // target is spare room of `to`, all of it written before it counts.
            // The worker may write meanwhile: then some bytes are old and some
            // new, which whoever checks them must expect of a worker anyway.
            unsafe {
                let spare = to.spare_capacity_mut().as_mut_ptr().cast::<u8>();
                std::ptr::copy_nonoverlapping(self.start.as_ptr().add(at), spare, bytes);
                to.set_len(to.len() + bytes);
            }
        }
        fits
    }

    /// Gives the memory from the place `from` on back to the system; it reads as
    /// zeros then.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn give_back(&mut self, from: usize) -> io::Result<()> {
        let rest = self.bytes.saturating_sub(from);
        if rest == 0 {
            return Ok(());
        }
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(fallocate(&self.file, hole, from as u64, rest as u64)?)
    }

    /// How much memory it takes.
    #[cfg(test)]
    pub(crate) fn resident_bytes(&self) -> usize {
        let stat = rustix::fs::fstat(&self.file).expect("an open file");
        usize::try_from(stat.st_blocks).expect("a size") * 512
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        // SAFETY: exactly what `create` mapped, and nothing refers to it any more.
        // It cannot fail, and there would be nothing to do about it.
        let _ = unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

/// Whether the kernel may refuse a page of memory that was promised.
fn reserves_memory() -> bool {
    static STRICT: OnceLock<bool> = OnceLock::new();
    *STRICT.get_or_init(|| {
        let mode = std::fs::read_to_string("/proc/sys/vm/overcommit_memory");
        mode.is_ok_and(|mode| mode.trim() == "2")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_and_bounds_hold() {
        let mut segment = Segment::create("mobula-test", 8192).unwrap();
        assert!(segment.write(8190, b"ab"));
        assert!(!segment.write(8191, b"ab"));
        assert!(!segment.write(usize::MAX, b"ab"));
        let mut read = vec![b'>'];
        assert!(segment.read(8190, 2, &mut read));
        assert!(!segment.read(8190, 3, &mut read));
        assert!(!segment.read(2, usize::MAX, &mut read));
        assert_eq!(read, b">ab");
    }

    #[test]
    fn a_worker_can_neither_resize_it_nor_write_to_what_it_reads() {
        let segment = Segment::create("mobula-test", 4096).unwrap();
        let writable = segment.descriptor(true).unwrap();
        for bytes in [0, 4095, 8192] {
            assert!(ftruncate(&writable, bytes).is_err(), "{bytes}");
        }
        assert_eq!(rustix::io::pwrite(&writable, b"x", 7).unwrap(), 1);
        let readable = segment.descriptor(false).unwrap();
        assert!(rustix::io::pwrite(&readable, b"y", 7).is_err());
        let mut read = Vec::new();
        assert!(segment.read(7, 1, &mut read));
        assert_eq!(read, b"x");
    }

    #[test]
    fn memory_is_given_back_from_a_place_on() {
        let mut segment = Segment::create("mobula-test", 1 << 20).unwrap();
        assert_eq!(segment.resident_bytes(), 0);
        assert!(segment.write(0, &vec![1; 1 << 20]));
        assert_eq!(segment.resident_bytes(), 1 << 20);
        segment.give_back(4096).unwrap();
        assert_eq!(segment.resident_bytes(), 4096);
        let mut read = Vec::new();
        assert!(segment.read(4095, 2, &mut read));
        assert_eq!(read, [1, 0]);
    }
}
