//! What Linux says of this process (proc(5)), under the names that Prometheus' client libraries agree on.

use std::fs;

use prometheus_client::{
    metrics::{counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};
use rustix::time::{ClockId, clock_gettime};

use crate::clock::Timestamp;

/// Adds the metrics of this process; what cannot be read is left out.
pub(super) fn measure(registry: &mut Registry, started: Timestamp) {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let gauges = [
        ("process_resident_memory_bytes", "Memory held in RAM", kib(&status, "VmRSS:")),
        (
            "process_resident_memory_peak_bytes",
            "The most memory held in RAM so far",
            kib(&status, "VmHWM:"),
        ),
        ("process_virtual_memory_bytes", "Virtual memory", kib(&status, "VmSize:")),
        ("process_threads", "Threads", field(&status, "Threads:")),
        ("process_open_fds", "Open file descriptors", open_files()),
    ];
    for (name, help, value) in gauges {
        if let Some(value) = value {
            registry.register(name, help, ConstGauge::new(value));
        }
    }
    registry.register(
        "process_start_time_seconds",
        "When the process started, since the Unix epoch",
        ConstGauge::new(started.as_seconds()),
    );
    registry.register(
        "process_cpu_seconds",
        "CPU time, of user and system",
        ConstCounter::new(cpu()),
    );
}

/// CPU time so far, in seconds.
fn cpu() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    std::time::Duration::try_from(time).unwrap_or_default().as_secs_f64()
}

fn open_files() -> Option<i64> {
    i64::try_from(fs::read_dir("/proc/self/fd").ok()?.count()).ok()
}

/// The number after `name` in proc_pid_status(5).
fn field(status: &str, name: &str) -> Option<i64> {
    let rest = status.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// The same for a size in kB, in bytes.
fn kib(status: &str, name: &str) -> Option<i64> {
    field(status, name)?.checked_mul(1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_bytes() {
        let status = "Name:\tx\nVmHWM:\t    12 kB\nVmRSS:\t      7 kB\nThreads:\t3\n";
        assert_eq!(kib(status, "VmRSS:"), Some(7 * 1_024));
        assert_eq!(field(status, "Threads:"), Some(3));
        assert_eq!(field(status, "VmSwap:"), None);
        assert!(cpu() > 0.0 && open_files().unwrap() > 2);
    }
}
