//! Disks that a test can take the power from, or fill. Both need the right to mount; where the machine does not give it
//! the reason is said, and what needs the disk is not run.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let done = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let done = done.map_err(|error| format!("{program}: {error}"))?;
    let said = String::from_utf8_lossy(&done.stderr).trim().to_owned();
    if done.status.success() { Ok(()) } else { Err(format!("{program} {}: {said}", arguments.join(" "))) }
}

/// ext4 on a loop device. What was not synced when the power went is not there afterwards: the file system is shut down
/// without its journal (`EXT4_IOC_SHUTDOWN` with `EXT4_GOING_FLAGS_NOLOGFLUSH`, as xfstests does it), so that all that
/// was only in memory is lost, and mounted again from what is on the device.
pub struct PowerDisk {
    folder: tempfile::TempDir,
}

impl PowerDisk {
    pub fn new(megabytes: u64) -> Result<PowerDisk, String> {
        let disk = PowerDisk { folder: tempfile::tempdir().map_err(|error| error.to_string())? };
        fs::create_dir(disk.path()).map_err(|error| error.to_string())?;
        let image = fs::File::create(disk.image()).map_err(|error| error.to_string())?;
        image.set_len(megabytes << 20).map_err(|error| error.to_string())?;
        run("mkfs.ext4", &["-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", &disk.image().display().to_string()])?;
        disk.mount()?;
        Ok(disk)
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("mounted")
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    fn mount(&self) -> Result<(), String> {
        run("mount", &["-o", "loop", &self.image().display().to_string(), &self.path().display().to_string()])
    }

    /// The power goes: from here on every write and every sync fails.
    pub fn cut(&self) -> Result<(), String> {
        // Standard Rust knows no ioctl without unsafe code, Python does: _IOR('X', 125, __u32), and 2 for "no log flush".
        let script = "import fcntl, os, struct, sys\n\
                      fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587D, struct.pack('I', 2))";
        run("python3", &["-c", script, &self.path().display().to_string()])
    }

    /// The power comes back; whoever had files open must be gone.
    pub fn restore(&self) -> Result<(), String> {
        let until = Instant::now() + Duration::from_secs(10);
        while let Err(error) = run("umount", &[&self.path().display().to_string()]) {
            if Instant::now() > until {
                return Err(error);
            }
            thread::sleep(Duration::from_millis(20));
        }
        self.mount()
    }
}

impl Drop for PowerDisk {
    fn drop(&mut self) {
        let _ = run("umount", &["-l", &self.path().display().to_string()]);
    }
}

/// A small tmpfs that can be filled to the last byte.
pub struct SmallDisk {
    folder: tempfile::TempDir,
}

impl SmallDisk {
    pub fn new(megabytes: u64) -> Result<SmallDisk, String> {
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let size = format!("size={megabytes}m");
        run("mount", &["-t", "tmpfs", "-o", &size, "tmpfs", &folder.path().display().to_string()])?;
        Ok(SmallDisk { folder })
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    fn ballast(&self) -> PathBuf {
        self.path().join("ballast")
    }

    /// Takes all but `left` bytes of what is free now.
    pub fn fill(&self, left: u64) {
        let free = rustix::fs::statvfs(self.path()).map_or(0, |space| space.f_bavail * space.f_frsize);
        let _ = fs::write(self.ballast(), vec![1; free.saturating_sub(left) as usize]);
    }

    pub fn free(&self) {
        let _ = fs::remove_file(self.ballast());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = run("umount", &["-l", &self.path().display().to_string()]);
    }
}
