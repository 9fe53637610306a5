//! What the person in front of the demo sees. Results go to standard output (or, when that is kept
//! for JSON, to standard error), progress to standard error; a bar only where it can move.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Where the demo's words go.
pub(super) struct Screen {
    json: bool,
    /// Hidden where standard error is no terminal, and while no rounds go on.
    bar: ProgressBar,
}

impl Screen {
    pub(super) fn new(json: bool) -> Self {
        Self { json, bar: ProgressBar::hidden() }
    }

    /// A result.
    pub(super) fn say(&self, text: &str) {
        self.bar.suspend(|| if self.json { eprintln!("{text}") } else { println!("{text}") });
    }

    /// A step that was done.
    pub(super) fn note(&self, text: &str) {
        self.bar.suspend(|| eprintln!("{text}"));
    }

    /// Starts the bar over `steps`.
    pub(super) fn expect(&self, steps: u32) {
        if std::io::stderr().is_terminal() {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        if let Ok(style) = ProgressStyle::with_template("[{bar:30}] {pos}/{len} {msg}") {
            self.bar.set_style(style);
        }
        self.bar.set_length(steps.into());
    }

    /// How far it is, and what is being done right now.
    pub(super) fn progress(&self, step: u32, doing: String) {
        self.bar.set_position(step.into());
        self.bar.set_message(doing);
    }

    /// Takes the bar away.
    pub(super) fn finished(&self) {
        self.bar.finish_and_clear();
        self.bar.set_draw_target(ProgressDrawTarget::hidden());
    }

    /// The last line for programs.
    pub(super) fn json(&self, line: &str) {
        if self.json {
            println!("{line}");
        }
    }
}
