//! Who holds a lock or a port on this machine, as far as `/proc` tells.
//!
//! Only for messages: a pid that the user can look at is worth more than "in use". Anything unreadable is `None`.
#![allow(clippy::disallowed_methods, reason = "reads /proc and runs no product logic")]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its id.
    pub pid: u32,
    /// Its command line.
    pub command: String,
}

impl Holder {
    fn of(pid: u32) -> Self {
        let raw = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<String> = raw
            .split(|&byte| byte == 0)
            .filter(|word| !word.is_empty())
            .map(|word| String::from_utf8_lossy(word).into_owned())
            .collect();
        Self { pid, command: shorten(&words.join(" ")) }
    }

    /// `pid 4121, nokv serve --store-id 1`.
    pub fn describe(&self) -> String {
        if self.command.is_empty() {
            format!("pid {}", self.pid)
        } else {
            format!("pid {}, {}", self.pid, self.command)
        }
    }
}

fn shorten(command: &str) -> String {
    const LENGTH_MAX: usize = 120;
    match command.char_indices().nth(LENGTH_MAX) {
        Some((at, _)) => format!("{}…", &command[..at]),
        None => command.to_owned(),
    }
}

/// Who holds the `flock` on `path`.
pub fn of_lock(path: &Path) -> Option<Holder> {
    let inode = fs::metadata(path).ok()?.ino();
    let locks = String::from_utf8(fs::read("/proc/locks").ok()?).ok()?;
    locks.lines().find_map(|line| lock_pid(line, inode)).map(Holder::of)
}

/// The process that has a working directory open.
pub fn of_workdir(dir: &Path) -> Option<Holder> {
    let path = dir.join("LOCK");
    of_lock(&path).or_else(|| named_in(&path))
}

/// Where locks of other namespaces are not shown: the process that a lock file names, if it lives and is one of ours.
fn named_in(lock: &Path) -> Option<Holder> {
    let line = String::from_utf8(fs::read(lock).ok()?).ok()?;
    let pid = pid_of(&line)?;
    let holder = Holder::of(pid);
    holder.command.contains("nokv").then_some(holder)
}

/// `pid 4121, nokv serve --store-id 1`
fn pid_of(line: &str) -> Option<u32> {
    line.strip_prefix("pid ")?.split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok()
}

/// `1: FLOCK  ADVISORY  WRITE 4121 08:01:131 0 EOF`
fn lock_pid(line: &str, inode: u64) -> Option<u32> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let file = words.get(5)?.rsplit(':').next()?;
    (words.get(1) == Some(&"FLOCK") && file.parse() == Ok(inode)).then(|| words[4].parse().ok())?
}

/// Who listens on the port of `addr`.
pub fn of_port(addr: &str) -> Option<Holder> {
    let port: u16 = addr.rsplit_once(':')?.1.parse().ok()?;
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"].iter().find_map(|table| {
        let text = String::from_utf8(fs::read(table).ok()?).ok()?;
        text.lines().find_map(|line| listener_inode(line, port))
    })?;
    let socket = format!("socket:[{inode}]");
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let mut files = fs::read_dir(entry.path().join("fd")).ok()?.flatten();
        files
            .any(|file| fs::read_link(file.path()).is_ok_and(|target| target.as_os_str() == socket.as_str()))
            .then(|| Holder::of(pid))
    })
}

/// `0: 0100007F:094B 00000000:0000 0A ... inode`; state 0A is LISTEN.
fn listener_inode(line: &str, port: u16) -> Option<u64> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let local = words.get(1)?.rsplit_once(':')?.1;
    let listens = words.get(3) == Some(&"0A") && u16::from_str_radix(local, 16) == Ok(port);
    listens.then(|| words.get(9)?.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_lines_are_read() {
        let line = "2: FLOCK  ADVISORY  WRITE 4121 08:01:131 0 EOF";
        assert_eq!(lock_pid(line, 131), Some(4121));
        assert_eq!(lock_pid(line, 132), None);
        assert_eq!((pid_of("pid 4121, nokv serve"), pid_of("nokv store 1")), (Some(4121), None));
        let line =
            "   1: 0100007F:094B 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0 0 9911 1 x";
        assert_eq!(listener_inode(line, 0x94b), Some(9911));
        assert_eq!(listener_inode(line, 1), None);
    }
}
