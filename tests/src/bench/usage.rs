//! What a running process uses, as Linux tells it in proc(5).

use std::fs;

use anyhow::Context;

/// Memory and processor time of one process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Usage {
    /// In RAM now, in bytes.
    pub(super) resident: u64,
    /// The part of it that the process made itself: not the pages of programs and other files, which the
    /// kernel reads when they are used and drops when it likes.
    pub(super) anonymous: u64,
    /// The most that was in RAM, in bytes, since the start or the last [`forget_peak`].
    pub(super) peak: u64,
    /// Processor time so far, in its own code and in the kernel, in seconds.
    pub(super) cpu: f64,
}

impl Usage {
    pub(super) fn of(pid: u32) -> anyhow::Result<Self> {
        let path = format!("/proc/{pid}/status");
        let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let bytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB"));
            let kib = kib.and_then(|kib| kib.trim().parse::<u64>().ok());
            kib.map(|kib| kib * 1024).with_context(|| format!("{path} has no {name}"))
        };
        Ok(Self {
            resident: bytes("VmRSS:")?,
            anonymous: bytes("RssAnon:")?,
            peak: bytes("VmHWM:")?,
            cpu: cpu(pid)?,
        })
    }
}

/// utime + stime of proc_pid_stat(5).
fn cpu(pid: u32) -> anyhow::Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    // The name before may hold anything. What follows begins with field 3.
    let (_, rest) = stat.rsplit_once(") ").with_context(|| format!("{path} is strange"))?;
    let ticks = rest.split(' ').skip(11).take(2).map(str::parse::<u32>);
    let ticks: u32 = ticks.sum::<Result<_, _>>().with_context(|| format!("{path} is strange"))?;
    let per_second = u32::try_from(rustix::param::clock_ticks_per_second())?;
    Ok(f64::from(ticks) / f64::from(per_second))
}

/// Lets the peak begin anew from what is in RAM now (proc_pid_clear_refs(5), value 5).
pub(super) fn forget_peak(pid: u32) -> anyhow::Result<()> {
    let path = format!("/proc/{pid}/clear_refs");
    fs::write(&path, "5").with_context(|| format!("cannot write {path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_something() {
        let own = std::process::id();
        forget_peak(own).unwrap();
        let before = Usage::of(own).unwrap();
        // Tests beside this one give memory back meanwhile: far less than this.
        let block = vec![1_u8; 256 << 20];
        let after = Usage::of(own).unwrap();
        assert!(after.peak >= before.resident + (128 << 20), "{before:?} {after:?}");
        assert!(after.anonymous >= before.anonymous + (128 << 20), "{before:?} {after:?}");
        assert!(after.anonymous < after.resident, "{after:?}");
        assert!(after.resident > 0 && after.cpu >= before.cpu);
        assert_eq!(block.iter().map(|b| u64::from(*b)).sum::<u64>(), 256 << 20);
    }
}
