//! What the machine gives a daemon: room and inodes on its disks, how fast they take data, and how many
//! files may be open.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::statvfs;
use tokio::time::Instant;

use super::Finding;
use crate::{durable::Unfinished, storage};

const MIB: u64 = 1 << 20;
/// Bytes below which a daemon will not last; and below which somebody has to look.
const NO_ROOM: u64 = 64 * MIB;
const LITTLE_ROOM: u64 = 1_024 * MIB;
/// The same for inodes.
const NO_INODES: u64 = 100;
const FEW_INODES: u64 = 10_000;
/// How often a write is timed, and how many bytes it has: a small batch of the journal.
const WRITES: usize = 5;
const WRITE: usize = 4 << 10;
/// A journal waits for each batch: slower than this, rounds feel it.
const SLOW: Duration = Duration::from_millis(250);

/// A directory that a daemon keeps things in.
#[derive(Clone, Debug)]
pub struct Place {
    /// What it is called in the configuration.
    pub name: &'static str,
    pub path: PathBuf,
}

impl Place {
    pub fn new(name: &'static str, path: impl Into<PathBuf>) -> Self {
        Self { name, path: path.into() }
    }

    /// The directory, or, if it is not made yet, the nearest one above it.
    fn existing(&self) -> &Path {
        let above = self.path.ancestors().find(|path| path.is_dir());
        above.unwrap_or(Path::new("."))
    }
}

/// Room and inodes of each file system that the places lie on, and, if `write`, how fast each place takes
/// data.
pub fn disks(places: &[Place], write: bool) -> Vec<Finding> {
    let mut systems: BTreeMap<u64, Vec<&Place>> = BTreeMap::new();
    let mut findings = Vec::new();
    for place in places {
        match fs::metadata(place.existing()) {
            Ok(found) => systems.entry(found.dev()).or_default().push(place),
            Err(error) => findings.push(unreadable(place, &error)),
        }
    }
    for places in systems.values() {
        findings.extend(room(places));
    }
    if write {
        findings.extend(places.iter().filter(|place| place.path.is_dir()).map(writes));
    }
    findings
}

fn unreadable(place: &Place, error: &io::Error) -> Finding {
    let path = place.path.display();
    let fix = format!("ls -ld {path}; chown it to the daemon's user");
    Finding::fail("disk", format!("{path} cannot be looked at"), error.to_string(), fix)
}

/// What a file system has left.
#[derive(Clone, Copy, Debug)]
struct Left {
    bytes: u64,
    /// None where they are not counted.
    inodes: Option<u64>,
}

fn room(places: &[&Place]) -> Vec<Finding> {
    let Some(first) = places.first() else { return Vec::new() };
    let names: Vec<_> = places.iter().map(|place| place.name).collect();
    let names = names.join(", ");
    match statvfs(first.existing()) {
        Ok(found) => {
            let bytes = found.f_bavail.saturating_mul(found.f_frsize);
            let inodes = (found.f_files > 0).then_some(found.f_favail);
            judge_room(&names, first.existing(), Left { bytes, inodes })
        }
        Err(error) => vec![unreadable(first, &error.into())],
    }
}

fn judge_room(names: &str, path: &Path, left: Left) -> Vec<Finding> {
    let path = path.display();
    let fix = format!("free space on it, or move the directory: df -h {path}");
    let what = format!("{} MiB free for {names}", left.bytes / MIB);
    let why = "a full disk stops the daemon until there is room again";
    let mut findings = vec![match left.bytes {
        0..NO_ROOM => Finding::fail("disk", &what, why, &fix),
        NO_ROOM..LITTLE_ROOM => Finding::warn("disk", &what, why, &fix),
        _ => Finding::ok("disk", &what),
    }];
    let fix = format!("remove small files that nobody needs: df -i {path}");
    if let Some(inodes) = left.inodes {
        let what = format!("{inodes} inodes free for {names}");
        let why = "without inodes no file is made, however much room there is";
        match inodes {
            0..NO_INODES => findings.push(Finding::fail("inodes", what, why, fix)),
            NO_INODES..FEW_INODES => findings.push(Finding::warn("inodes", what, why, fix)),
            _ => {}
        }
    }
    findings
}

fn writes(place: &Place) -> Finding {
    match timed(&place.path) {
        Ok(times) => judge_writes(place, times),
        Err(error) => {
            let path = place.path.display();
            let fix = if storage::no_room(&error).is_some() {
                format!("free space, or mount it for writing: df -h {path}; mount")
            } else {
                format!("ls -ld {path}; chown it to the daemon's user; if it is: dmesg")
            };
            let what = format!("{} takes no data ({path})", place.name);
            Finding::fail("writes", what, error.to_string(), fix)
        }
    }
}

/// How long writes with an fsync take, the shortest first.
fn timed(dir: &Path) -> io::Result<[Duration; WRITES]> {
    let mut file = Unfinished::create(dir)?;
    let mut times = [Duration::ZERO; WRITES];
    for time in &mut times {
        let begun = Instant::now();
        file.write_all(&[0; WRITE])?;
        file.sync()?;
        *time = begun.elapsed();
    }
    times.sort();
    Ok(times)
}

fn judge_writes(place: &Place, times: [Duration; WRITES]) -> Finding {
    let (median, longest) = (times[WRITES / 2], times[WRITES - 1]);
    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    let (usual, most) = (millis(median), millis(longest));
    let what = format!(
        "{}: a write is durable within {usual:.1} ms (at most {most:.1} ms of {WRITES})",
        place.name
    );
    if median <= SLOW {
        return Finding::ok("writes", what);
    }
    let why = "every entry of the journal waits for this";
    let fix = "iostat -x 1 shows who uses the disk; or move the directory to a local one";
    Finding::warn("writes", what, why, fix)
}

/// How many files the daemon (process `pid`), or else this process, may have open; it needs `needed`.
/// `unit` is the systemd unit that sets it.
pub fn open_files(pid: Option<i32>, needed: u64, unit: &str) -> Finding {
    let whose = pid.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
    let limits = fs::read_to_string(format!("/proc/{whose}/limits")).unwrap_or_default();
    judge_open_files(soft_limit(&limits), pid.is_some(), needed, unit)
}

/// The soft limit in proc_pid_limits(5); none if there is no number.
fn soft_limit(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

fn judge_open_files(limit: Option<u64>, daemon: bool, needed: u64, unit: &str) -> Finding {
    const CHECK: &str = "open files";
    let whose = if daemon { "the daemon's" } else { "this shell's (the daemon does not run)" };
    let Some(limit) = limit else {
        let why = "/proc does not say; the limit may be too low";
        let fix = format!("systemctl show -p LimitNOFILE {unit}");
        return Finding::warn(CHECK, format!("{whose} limit is not known"), why, fix);
    };
    let what = format!("{whose} limit is {limit}, {needed} are enough");
    if limit >= needed {
        return Finding::ok(CHECK, what);
    }
    let why = "connections and files beyond the limit are refused";
    let fix = format!("systemctl edit {unit}, with LimitNOFILE={needed} below [Service]");
    Finding::warn(CHECK, what, why, fix)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(findings: &[Finding]) -> String {
        findings.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_disk_without_room_or_inodes_is_seen() {
        let judged =
            |bytes, inodes| text(&judge_room("vault", Path::new("/v"), Left { bytes, inodes }));
        assert!(judged(LITTLE_ROOM, Some(FEW_INODES)).starts_with("ok    disk"));
        let little = judged(LITTLE_ROOM - 1, None);
        assert!(little.starts_with("WARN  disk") && little.contains("df -h /v"), "{little}");
        assert!(judged(NO_ROOM - 1, None).starts_with("FAIL  disk"));
        assert!(judged(u64::MAX, Some(FEW_INODES - 1)).contains("WARN  inodes"));
        let none = judged(u64::MAX, Some(0));
        assert!(none.contains("FAIL  inodes") && none.contains("df -i /v"), "{none}");
    }

    #[test]
    fn a_disk_that_is_slow_or_takes_nothing_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let place = |path: &Path| Place::new("journal", path);
        let here = place(dir.path());
        assert!(timed(dir.path()).unwrap()[0] > Duration::ZERO);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
        assert!(judge_writes(&here, [SLOW; WRITES]).to_string().starts_with("ok"));
        let slow = judge_writes(&here, [SLOW * 2; WRITES]).to_string();
        assert!(slow.starts_with("WARN  writes") && slow.contains("iostat"), "{slow}");
        // A file in the place of the directory: nobody can write into it, root neither.
        let file = dir.path().join("f");
        fs::write(&file, "").unwrap();
        let refused = writes(&place(&file));
        assert!(refused.failed() && refused.to_string().contains("chown"), "{refused}");
    }

    #[test]
    fn one_line_for_each_file_system_and_one_for_each_directory() {
        let dir = tempfile::tempdir().unwrap();
        let places =
            [Place::new("home", dir.path()), Place::new("journal", dir.path().join("journal"))];
        let found = text(&disks(&places, true));
        assert_eq!(found.matches(" disk ").count(), 1, "{found}");
        assert!(found.contains("home, journal"), "{found}");
        assert_eq!(found.matches(" writes ").count(), 1, "what is not made yet: {found}");
        assert!(!text(&disks(&places, false)).contains(" writes "));
    }

    #[test]
    fn a_low_limit_of_open_files_is_seen() {
        let limits = "Limit   Soft Limit  Hard Limit  Units\n\
                      Max open files            1024                 524288               files\n";
        assert_eq!(soft_limit(limits), Some(1_024));
        assert_eq!(soft_limit("Max open files unlimited unlimited files"), Some(u64::MAX));
        let low = judge_open_files(Some(1_024), true, 2_304, "u.service").to_string();
        assert!(low.starts_with("WARN") && low.contains("LimitNOFILE=2304"), "{low}");
        assert!(judge_open_files(Some(2_304), false, 2_304, "u").to_string().starts_with("ok"));
        assert!(judge_open_files(None, false, 1, "u").to_string().starts_with("WARN"));
        assert!(open_files(None, 1, "u").to_string().starts_with("ok"));
    }
}
