//! `[limits]` of `agent.toml`: when this institution trains, and how much of the machine and of the line
//! that may take. Read and checked here; kept to by whoever trains and sends.

use serde::{Deserialize, Serialize};

use crate::{
    model::neural::Memory,
    windows::{BadWindow, Window, Windows},
};

/// The priority of the training thread if none is set: other work on the machine goes first.
const TRAINING_NICE: u8 = 10;
/// The part of one core that it uses if nothing is set: all of it.
const TRAINING_CPU_PERCENT: u8 = 100;

/// What one agent may take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct Limits {
    /// When new plans are accepted; always if none.
    pub training_windows: Option<Windows>,
    /// The nice value of the one thread that trains, 0 to 19.
    pub training_nice: u8,
    /// The part of one processor core that training may use, 1 to 100.
    pub training_cpu_percent: u8,
    /// The most memory that the records of a task and what is computed from them may need, in MiB.
    pub memory_mib: Option<u64>,
    /// For masked vectors; 0 is no limit.
    pub upload_kib_per_second: u32,
    /// For models and other blobs; 0 is no limit.
    pub download_kib_per_second: u32,
}

/// The slowest line that still carries a round, in KiB per second.
const MIN_PACE: u32 = 32;

impl Default for Limits {
    fn default() -> Self {
        Self {
            training_windows: None,
            training_nice: TRAINING_NICE,
            training_cpu_percent: TRAINING_CPU_PERCENT,
            memory_mib: None,
            upload_kib_per_second: 0,
            download_kib_per_second: 0,
        }
    }
}

/// The section as it is written.
#[derive(Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Written {
    training_windows: Option<Vec<Window>>,
    time_zone: Option<String>,
    training_nice: u8,
    training_cpu_percent: u8,
    memory_mib: Option<u64>,
    upload_kib_per_second: u32,
    download_kib_per_second: u32,
}

impl Default for Written {
    fn default() -> Self {
        Self {
            training_windows: None,
            time_zone: None,
            training_nice: TRAINING_NICE,
            training_cpu_percent: TRAINING_CPU_PERCENT,
            memory_mib: None,
            upload_kib_per_second: 0,
            download_kib_per_second: 0,
        }
    }
}

impl From<Limits> for Written {
    fn from(limits: Limits) -> Self {
        let (training_windows, time_zone) = limits.training_windows.map(Windows::written).unzip();
        Self {
            training_windows,
            time_zone: time_zone.flatten(),
            training_nice: limits.training_nice,
            training_cpu_percent: limits.training_cpu_percent,
            memory_mib: limits.memory_mib,
            upload_kib_per_second: limits.upload_kib_per_second,
            download_kib_per_second: limits.download_kib_per_second,
        }
    }
}

impl TryFrom<Written> for Limits {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let Written { training_windows, time_zone, memory_mib, .. } = written;
        let Written { training_nice, training_cpu_percent, .. } = written;
        let Written { upload_kib_per_second, download_kib_per_second, .. } = written;
        let windows = training_windows.map(|all| Windows::new(all, time_zone.as_deref()));
        let training_windows = windows.transpose().map_err(|bad: BadWindow| bad.to_string())?;
        if training_nice > 19 {
            return Err("training_nice: use 0 (as other programs) to 19 (after all others)".into());
        }
        if !(1..=100).contains(&training_cpu_percent) {
            return Err("training_cpu_percent: use 1 to 100, of one processor core".into());
        }
        if memory_mib == Some(0) {
            return Err("memory_mib: use 1 or more, or leave the key out".into());
        }
        let slow = |pace| (1..MIN_PACE).contains(&pace);
        if slow(upload_kib_per_second) || slow(download_kib_per_second) {
            return Err("use 0 or at least 32 KiB per second in each direction".into());
        }
        Ok(Self {
            training_windows,
            training_nice,
            training_cpu_percent,
            memory_mib,
            upload_kib_per_second,
            download_kib_per_second,
        })
    }
}

/// Bytes in memory for one answer while a stage runs: the record (about 200 with two competencies), its
/// row of features in double precision (210) and as tensors (150), and room for what a step computes.
const PER_ANSWER: u64 = 768;
/// Bytes for one value of the vector: the model and the sums that it starts from, the values, their
/// integers, and the sealed piece that is written.
const PER_VALUE: u64 = 40;

impl Limits {
    /// Why a stage over so many answers and so many values is not begun; none if it may be. `network` is what
    /// a neural network takes besides. An estimate before anything is read: an allocation that fails would end
    /// the whole process, so the machine's own bound (MemoryMax of the systemd unit) belongs above this one.
    pub fn too_large(&self, answers: u64, values: usize, network: Memory) -> Option<String> {
        let limit = self.memory_mib?;
        let answer = PER_ANSWER.saturating_add(network.answer);
        let values = u64::try_from(values).unwrap_or(u64::MAX);
        let vector = values.saturating_mul(PER_VALUE);
        let beside = vector.saturating_add(network.batch);
        let need = answers.saturating_mul(answer).saturating_add(beside).div_ceil(1 << 20);
        (need > limit).then(|| {
            format!(
                "training may need about {need} MiB, and memory_mib of agent.toml allows {limit}: raise it if the machine has more"
            )
        })
    }
}

/// The section of the sample configuration.
pub fn sample() -> String {
    let Limits { upload_kib_per_second: up, download_kib_per_second: down, .. } = Limits::default();
    format!(
        r#"# What the agent may use of this institution's resources, and when.
[limits]
# KiB per second for masked vectors going out, and for models coming in; 0 is no limit.
upload_kib_per_second = {up}
download_kib_per_second = {down}
# When new rounds are joined; at any time if left out. A round under way is finished.
# training_windows = ["Mon-Fri 18:00-06:00", "Sat-Sun 00:00-24:00"]
# time_zone = "Europe/Berlin"
# Training runs on one thread with this nice value: 0 as other programs, 19 after all others.
training_nice = {TRAINING_NICE}
# How much of one processor core that thread may use, in percent, rests included.
training_cpu_percent = {TRAINING_CPU_PERCENT}
# A round whose training would need more memory than this is not joined; no limit if left out.
# memory_mib = 2048
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Limits, String> {
        toml::from_str(text).map_err(|error: toml::de::Error| error.to_string())
    }

    #[test]
    fn what_needs_more_memory_than_allowed_is_refused_with_both_numbers() {
        let limits = Limits { memory_mib: Some(100), ..Limits::default() };
        let none = Memory::default();
        assert_eq!(limits.too_large(100_000, 10_000, none), None, "74 MiB");
        let network = Memory { answer: 240, batch: 8 << 20 };
        let reason = limits.too_large(100_000, 10_000, network).unwrap();
        assert!(reason.contains("105 MiB"), "{reason}");
        let reason = limits.too_large(200_000, 10_000, none).unwrap();
        assert!(reason.contains("147 MiB") && reason.contains("allows 100"), "{reason}");
        assert!(limits.too_large(0, 100 << 20, none).is_some(), "a large vector alone");
        assert_eq!(Limits::default().too_large(u64::MAX, usize::MAX, network), None);
    }

    #[test]
    fn windows_need_their_zone_and_all_values_are_checked() {
        let good = "training_windows = [\"Sat 00:00-24:00\"]\ntime_zone = \"UTC\"\n";
        assert!(read(good).unwrap().training_windows.is_some());
        assert_eq!(read("").unwrap(), Limits::default());
        let cases = [
            ("training_windows = [\"Sat 00:00-24:00\"]", "time_zone"),
            ("training_windows = [\"weekend\"]\ntime_zone = \"UTC\"", "weekend"),
            ("training_windows = []\ntime_zone = \"UTC\"", "never train"),
            ("training_nice = 20", "training_nice"),
            ("training_nice = -1", "-1"),
            ("training_cpu_percent = 0", "training_cpu_percent"),
            ("training_cpu_percent = 101", "training_cpu_percent"),
            ("memory_mib = 0", "memory_mib"),
            ("memory_gib = 1", "memory_gib"),
            ("download_kib_per_second = 31", "at least 32"),
        ];
        for (text, named) in cases {
            let error = read(text).unwrap_err();
            assert!(error.contains(named), "{text}: {error}");
        }
    }
}
