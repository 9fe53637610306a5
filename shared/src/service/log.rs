//! Where a process writes about its work: standard error, one event on each line, as text or as
//! JSON. Owns the process's one log and what may change while it runs; never decides what is said.

use std::{
    env, fmt,
    io::{self, IsTerminal},
    os::unix::fs::MetadataExt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use thiserror::Error;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::{
    EnvFilter, Registry, fmt as lines,
    fmt::{
        FmtContext,
        format::{Format, FormatEvent, FormatFields, Writer},
    },
    layer::SubscriberExt,
    registry::LookupSpan,
    reload,
    util::SubscriberInitExt,
};

use crate::config::{Log, LogFormat};

/// Why the log of the process cannot be set up.
#[derive(Debug, Error)]
pub enum LogError {
    #[error("{0}")]
    Level(String),
    #[error("the log of this process was set up before")]
    Twice,
    #[error("the log cannot be changed: {0}")]
    Unchangeable(#[from] reload::Error),
}

/// The process's log, once it is set up.
static CONTROL: OnceLock<Control> = OnceLock::new();

struct Control {
    filter: reload::Handle<EnvFilter, Registry>,
    json: Arc<AtomicBool>,
}

/// Writes about the work of this process to standard error.
pub fn log_to_stderr(log: &Log) -> Result<(), LogError> {
    let (filter, handle) = reload::Layer::new(log.filter().map_err(LogError::Level)?);
    let json = Arc::new(AtomicBool::new(log.format == LogFormat::Json));
    let control = Control { filter: handle, json: Arc::clone(&json) };
    let format = Lines { json, journal: stderr_is_journal() };
    let written = lines::layer()
        .event_format(format)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr);
    let init = tracing_subscriber::registry().with(filter).with(written).try_init();
    init.map_err(|_| LogError::Twice)?;
    CONTROL.set(control).map_err(|_| LogError::Twice)
}

/// Changes level and format of the log from here on; nothing if this process has none.
pub fn change_log(log: &Log) -> Result<(), LogError> {
    let filter = log.filter().map_err(LogError::Level)?;
    if let Some(control) = CONTROL.get() {
        control.filter.reload(filter)?;
        control.json.store(log.format == LogFormat::Json, Ordering::Relaxed);
    }
    Ok(())
}

/// Whether systemd's journal reads standard error (systemd.exec(5), `JOURNAL_STREAM`): then it takes
/// a line's priority from a prefix (sd-daemon(3)).
fn stderr_is_journal() -> bool {
    let Ok(stream) = env::var("JOURNAL_STREAM") else { return false };
    let Ok(file) = std::fs::metadata("/proc/self/fd/2") else { return false };
    stream == format!("{}:{}", file.dev(), file.ino())
}

/// One event as one line, whatever it says.
struct Lines {
    json: Arc<AtomicBool>,
    /// Whether lines begin with their priority.
    journal: bool,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut text = String::new();
        let line = Writer::new(&mut text);
        if self.json.load(Ordering::Relaxed) {
            let json = Format::default().json().with_current_span(false).with_span_list(false);
            json.format_event(context, line, event)?;
        } else {
            let format = Format::default().with_ansi(writer.has_ansi_escapes());
            format.format_event(context, line, event)?;
        }
        if self.journal {
            write!(writer, "<{}>", priority(*event.metadata().level()))?;
        }
        writeln!(writer, "{}", text.trim_end().replace('\n', "\\n"))
    }
}

/// The level as syslog counts it (RFC 5424, table 2).
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        sync::{Mutex, PoisonError},
    };

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn written(json: bool, journal: bool, work: impl FnOnce()) -> String {
        let buffer = Buffer::default();
        let to = buffer.clone();
        let format = Lines { json: Arc::new(AtomicBool::new(json)), journal };
        let layer =
            lines::layer().event_format(format).with_ansi(false).with_writer(move || to.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), work);
        String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap()
    }

    fn two_events() {
        let _span = tracing::info_span!("call", path = "/a").entered();
        tracing::warn!(institution = "school-a", reason = "two\nlines", "refused\nfor now");
        tracing::error!("bad");
    }

    #[test]
    fn an_event_is_one_line_of_text() {
        let text = written(false, false, two_events);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(lines[0].contains("WARN") && lines[0].contains("refused\\nfor now"), "{text}");
    }

    #[test]
    fn an_event_is_one_line_of_json() {
        let text = written(true, false, two_events);
        let parse = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
        let lines: Vec<_> = text.lines().map(parse).collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert_eq!(lines[0]["level"], "WARN");
        assert_eq!(lines[0]["fields"]["reason"], "two\nlines");
        assert_eq!(lines[1]["fields"]["message"], "bad");
    }

    #[test]
    fn the_journal_gets_priorities() {
        for json in [false, true] {
            let text = written(json, true, two_events);
            let starts: Vec<_> = text.lines().map(|line| &line[..3]).collect();
            assert_eq!(starts, ["<4>", "<3>"], "{text}");
        }
    }
}
