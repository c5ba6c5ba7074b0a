//! Disks that a test can take the power from, or fill. Both need the right to mount; where the machine does not give it
//! the reason is said, and what needs the disk is not run.

use std::{
    fs,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
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
    /// Waits for a line and then shuts the file system down: starting it only then would take longer than many commits.
    switch: Child,
}

/// Standard Rust knows no ioctl without unsafe code, Python does: _IOR('X', 125, __u32), and 2 for "no log flush".
const SWITCH: &str = "import fcntl, os, struct, sys\n\
                      disk = os.open(sys.argv[1], os.O_RDONLY)\n\
                      print(flush=True)\n\
                      if sys.stdin.readline(): fcntl.ioctl(disk, 0x8004587D, struct.pack('I', 2))";

impl PowerDisk {
    pub fn new(megabytes: u64) -> Result<PowerDisk, String> {
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let (image, mounted) = (folder.path().join("image"), folder.path().join("mounted"));
        fs::create_dir(&mounted).map_err(|error| error.to_string())?;
        fs::File::create(&image).and_then(|file| file.set_len(megabytes << 20)).map_err(|error| error.to_string())?;
        run("mkfs.ext4", &["-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", &image.display().to_string()])?;
        let switch = mount(&image, &mounted)?;
        Ok(PowerDisk { folder, switch })
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("mounted")
    }

    /// The power goes: from here on every write fails, and nearly every sync.
    pub fn cut(&mut self) {
        let mut line = self.switch.stdin.take().expect("piped");
        line.write_all(b"\n").expect("the switch listens");
        assert!(self.switch.wait().expect("the switch ends").success(), "the file system was not shut down");
    }

    /// The power comes back; whoever had files open must be gone.
    pub fn restore(&mut self) -> Result<(), String> {
        let until = Instant::now() + Duration::from_secs(10);
        while let Err(error) = run("umount", &[&self.path().display().to_string()]) {
            if Instant::now() > until {
                return Err(error);
            }
            thread::sleep(Duration::from_millis(20));
        }
        self.switch = mount(&self.folder.path().join("image"), &self.path())?;
        Ok(())
    }
}

fn mount(image: &Path, at: &Path) -> Result<Child, String> {
    run("mount", &["-o", "loop", &image.display().to_string(), &at.display().to_string()])?;
    let mut switch = Command::new("python3");
    switch.args(["-c", SWITCH]).arg(at).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut switch = switch.spawn().map_err(|error| format!("python3: {error}"))?;
    let mut ready = [0];
    switch.stdout.take().expect("piped").read_exact(&mut ready).map_err(|error| format!("python3: {error}"))?;
    Ok(switch)
}

impl Drop for PowerDisk {
    fn drop(&mut self) {
        let _ = self.switch.kill();
        let _ = self.switch.wait();
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
