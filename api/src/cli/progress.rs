//! How far a long command has come: a bar on a terminal, a plain line now and then elsewhere, nothing under `--json`.
//!
//! Everything here goes to standard error, so that results can be piped.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::output::note;

/// Time between two plain lines.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Progress of one piece of work, counted in `unit`.
pub(super) struct Progress {
    shown: Shown,
}

enum Shown {
    Nothing,
    Bar(ProgressBar),
    Lines {
        subject: String,
        unit: &'static str,
        last: Mutex<Instant>,
    },
}

impl Progress {
    /// Starts showing the progress of `subject`.
    pub(super) fn start(subject: &str, unit: &'static str, quiet: bool) -> Self {
        let shown = if quiet {
            Shown::Nothing
        } else if std::io::stderr().is_terminal() {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
            let style = ProgressStyle::with_template("{prefix:<18} {wide_bar} {pos}/{len} {msg} {per_sec} eta {eta}")
                .expect("the template is valid");
            bar.set_style(style);
            bar.set_prefix(subject.to_owned());
            bar.set_message(unit);
            Shown::Bar(bar)
        } else {
            Shown::Lines {
                subject: subject.to_owned(),
                unit,
                last: Mutex::new(Instant::now()),
            }
        };
        Self { shown }
    }

    /// Tells that `done` of `total` is behind us.
    pub(super) fn advance(&self, done: u64, total: u64) {
        match &self.shown {
            Shown::Nothing => {}
            Shown::Bar(bar) => {
                bar.set_length(total);
                bar.set_position(done);
            }
            Shown::Lines { subject, unit, last } => {
                let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
                if last.elapsed() >= LINE_INTERVAL {
                    *last = Instant::now();
                    note(format_args!("{subject}: {done} of {total} {unit}"));
                }
            }
        }
    }
}

impl Drop for Progress {
    /// Takes the bar off the screen; the result is told by the command.
    fn drop(&mut self) {
        if let Shown::Bar(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }
}
